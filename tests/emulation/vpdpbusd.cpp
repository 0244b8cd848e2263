// vpdpbusd of AVX-VNNI for processors that lack it: linked into a native module that believes in it, this carries out what the
// processor calls illegal, and goes on behind it. Linux on x86-64, linked with --wrap=sigaction: whoever else waits for illegal
// instructions is told of all others.
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>

extern "C" int __real_sigaction(int signal, const struct sigaction* action, struct sigaction* old);

namespace {

struct sigaction next;  // of whoever waits behind this one

// Where a frame holds the upper halves of ymm and of zmm registers; asking takes long where the machine is virtual.
uint32_t offset_of(uint32_t component) {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid_count(0xd, component, &eax, &ebx, &ecx, &edx);
  return ebx;
}
const uint32_t ymm_offset = offset_of(2), zmm_offset = offset_of(6);

// Register numbers of instructions → places in a signal's frame.
constexpr int kGeneral[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// The vector registers in a signal's frame, in the layout of xsave.
class Vectors {
 public:
  explicit Vectors(const ucontext_t& context) : area_(reinterpret_cast<uint8_t*>(context.uc_mcontext.fpregs)) {
    use(1, kXmm);
    use(2, ymm_offset);
  }

  void read(int i, uint8_t* bytes) const {
    std::memcpy(bytes, area_ + kXmm + 16 * i, 16);
    std::memcpy(bytes + 16, area_ + ymm_offset + 16 * i, 16);
  }
  // Bits above the 256 become 0.
  void write(int i, const uint8_t* bytes) {
    std::memcpy(area_ + kXmm + 16 * i, bytes, 16);
    std::memcpy(area_ + ymm_offset + 16 * i, bytes + 16, 16);
    if (in_use() & 1u << 6) std::memset(area_ + zmm_offset + 32 * i, 0, 32);
  }

 private:
  static constexpr int kXmm = 160, kHeader = 512;

  uint64_t in_use() const {
    uint64_t bits;
    std::memcpy(&bits, area_ + kHeader, sizeof bits);
    return bits;
  }
  // A component that is not in use is zero, and its place holds anything: from here on it is in use.
  void use(int i, uint32_t offset) {
    const uint64_t bits = in_use(), with = bits | uint64_t{1} << i;
    if (bits == with) return;
    std::memset(area_ + offset, 0, 16 * 16);
    std::memcpy(area_ + kHeader, &with, sizeof with);
  }

  uint8_t* area_;
};

// VEX.66.0F38.W0 50 /r at the instruction pointer, carried out; false for anything else.
bool emulate(ucontext_t& context) {
  greg_t* general = context.uc_mcontext.gregs;
  const auto* code = reinterpret_cast<const uint8_t*>(general[REG_RIP]);
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x83) != 1 || code[3] != 0x50) return false;
  const int r = code[1] & 0x80 ? 0 : 8, x = code[1] & 0x40 ? 0 : 8, b = code[1] & 0x20 ? 0 : 8;
  const int unsigned_source = ~code[2] >> 3 & 15, n_bytes = code[2] & 4 ? 32 : 16;
  const int mode = code[4] >> 6, destination = (code[4] >> 3 & 7) + r, place = code[4] & 7;
  const uint8_t* end = code + 5;
  Vectors vectors(context);
  uint8_t sums[32], codes[32], values[32] = {};
  vectors.read(destination, sums);
  vectors.read(unsigned_source, codes);
  if (mode == 3) {
    vectors.read(place + b, values);
  } else {
    int64_t address = 0;
    int base = place + b;
    bool has_base = true;
    if (place == 4) {
      const uint8_t sib = *end++;
      const int index = (sib >> 3 & 7) + x;
      if (index != 4) address += general[kGeneral[index]] << (sib >> 6);
      base = (sib & 7) + b;
      has_base = mode != 0 || (sib & 7) != 5;
    } else if (mode == 0 && place == 5) {
      has_base = false;
    }
    if (has_base) address += general[kGeneral[base]];
    if (mode == 1) {
      address += static_cast<int8_t>(*end++);
    } else if (mode == 2 || !has_base) {
      int32_t offset;
      std::memcpy(&offset, end, sizeof offset);
      end += sizeof offset;
      address += offset;
    }
    if (mode == 0 && place == 5) address += reinterpret_cast<int64_t>(end);
    std::memcpy(values, reinterpret_cast<const void*>(address), static_cast<size_t>(n_bytes));
  }
  for (int i = 0; i < n_bytes; i += 4) {
    uint32_t sum;
    std::memcpy(&sum, sums + i, sizeof sum);
    for (int j = i; j < i + 4; ++j) sum += static_cast<uint32_t>(codes[j] * static_cast<int8_t>(values[j]));
    std::memcpy(sums + i, &sum, sizeof sum);
  }
  if (n_bytes == 16) std::memset(sums + 16, 0, 16);
  vectors.write(destination, sums);
  general[REG_RIP] = reinterpret_cast<greg_t>(end);
  return true;
}

void on_signal(int signal, siginfo_t* info, void* frame) {
  if (emulate(*static_cast<ucontext_t*>(frame))) return;
  if (next.sa_flags & SA_SIGINFO) {
    next.sa_sigaction(signal, info, frame);
  } else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) {
    next.sa_handler(signal);
  } else {
    __real_sigaction(signal, &next, nullptr);  // it happens again, and ends the process
  }
}

void wait() {
  struct sigaction mine {};
  mine.sa_sigaction = on_signal;
  mine.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&mine.sa_mask);
  __real_sigaction(SIGILL, &mine, nullptr);
}

}  // namespace

// The self-test of the start calls this before it runs a kernel. From then on the signal is ours, whoever took it before.
extern "C" int __wrap_sigaction(int signal, const struct sigaction* action, struct sigaction* old) {
  if (signal != SIGILL) return __real_sigaction(signal, action, old);
  const struct sigaction before = next;
  if (action != nullptr) next = *action;
  if (old != nullptr) *old = before;
  wait();
  return 0;
}
