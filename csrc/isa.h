// Does the processor have an instruction set, and does the operating system save its registers? One probe a row of isa.list.
#pragma once

namespace tritium {

bool cpu_has_avx512vnni();
bool cpu_has_avxvnni();
bool cpu_has_avx2();
bool cpu_has_neon_i8mm();
bool cpu_has_neon_dot();
bool cpu_has_neon();
bool cpu_has_baseline();

bool cpu_has_sha256();  // instructions for it, beside the sets

}  // namespace tritium
