// What a kernel sees. A kernel is a plain function over a range of units of one step; it never allocates, throws, prints or
// starts threads, and reports what it did and what went wrong through Work.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tritium {

constexpr int kLanes = 16;             // lanes of every f32 sum (profile tritium-canon-1)
constexpr int kPanelRows = 16;         // rows of a weight panel
constexpr int kPanelDepth = 16;        // k in 64 bytes of an i2s panel
constexpr int kTritDepth = 80;         // k in 256 bytes of a tq1 panel
constexpr int kFifthDigit = 85;        // what the fifth digit of a byte of a tq1 panel counts
constexpr int64_t kScaleGroup = 256;   // k that share a scale in an i2s_groups panel
constexpr int64_t kMaxDepth = (int64_t{1} << 19) - 1;  // greatest k of a linear: sums in which codes stand as 64·code fit int32
constexpr int64_t kMaxTritDepth = 1 << 16;  // greatest k of a tq1 panel: two of them, unpacked, fit the scratch memory
constexpr int kAttentionSplit = 256;   // keys in one split of the attention sum (profile)
constexpr int kTileRows = 32;          // most rows that attend together
constexpr int64_t kMaxScreenDepth = 1 << 16;  // greatest k of a head plane: its integer sums fit int32
constexpr int64_t kScreenShare = 8;           // a request for more than this part of the vocabulary reads the full head
constexpr int64_t kMaxSparse = (int64_t{1} << 17) - 1;  // greatest k and n of a sparse linear: 128·128·k fits int32, lists fit scratch
constexpr int64_t kTableSide = 32;     // tokens that share the tables of a linear, where an instruction set has such kernels
constexpr int64_t kTableLeast = 25;    // fewer are faster without
constexpr int64_t kColumnRows = 256;   // rows in 64 bytes of an i2s_columns column
constexpr int64_t kColumnParts = 16;   // tokens that share the columns' parts; more are cut into groups
constexpr int64_t kColumnTokens = 32;  // most tokens of whose sums over columns a worker has room
constexpr int kMaxOperands = 6;
constexpr int kMaxResidents = 4;

enum class Error : int32_t { none = 0, not_finite = 1, kv_overflow = 2 };

// Counted by the kernel while it runs: work done, work proved unnecessary, weight and cache bytes read. The first error of a range
// is kept with its row.
struct Work {
  uint64_t macs = 0;
  uint64_t macs_skipped = 0;
  uint64_t bytes = 0;
  Error error = Error::none;
  int64_t error_row = -1;

  // Forced inline, as Operand::row is: a copy compiled for one instruction set must not be merged into another unit.
  [[gnu::always_inline]] void fail(Error e, int64_t row) {
    if (error == Error::none) {
      error = e;
      error_row = row;
    }
  }
};

// Columns of an activation buffer: `data` points at row 0 of the first column, rows are `stride` elements apart.
// f32 strides are multiples of 16, i8 strides of 64; columns past a value's width up to that multiple are zero.
struct Operand {
  void* data;
  int64_t stride;
  template <class T>
  [[gnu::always_inline]] T* row(int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }
};

// Resident layouts: f32 f16 bf16 q8_0 q6_k are the file's rows, unchanged.
// i2s: rows/16 panels of ceil(cols/16) blocks of 64 bytes; in a block, bits 2j..2j+1 of byte 4r + b hold trit + 1 of row r,
// k = 16·block + 4j + b (padding: code 1). At the next multiple of 64 bytes follow rows/16 f32 scales, one a panel.
// tq1: rows/16 panels of ceil(cols/80) groups of four blocks of 64 bytes; byte 4r + b of block i of a group holds d(0) + 3·d(1) + 9·d(2)
// + 27·d(3) + 85·d(4) of row r (85, not 81: d(4) then shows in the upper six bits, and 85·d(4) ends in the bits of d(4)),
// five digits d = trit + 1: d(0) … d(3) of k = 80·group + 16·i + 4·j + b, d(4) of k = 80·group + 64 + 4·i + b (d = 0 past the last
// column, so that what stands for activations there adds nothing). Scales as in i2s.
// i2s_groups: for cols a multiple of 256, rows/16 panels of cols/256 groups: 16 blocks as in i2s, then sixteen f32 scales, one a row.
// i2_s: the file's tensor, for cols a multiple of 128. A row is cols/4 bytes; byte p of 32 holds trit + 1 of k = 128·block + 32·j + p in
// bits 6−2j..7−2j. Behind the rows 32 bytes, which begin with the f32 scale.
// i2s_columns: cols columns of ceil(rows/256) blocks of 64 bytes; in a block, bits 2j..2j+1 of byte 16·l + 4·v + i hold trit + 1 of
// row 256·block + 64·j + 16·v + 4·l + i (padding: code 1): four columns interleaved by bytes give sixteen rows side by side. Behind
// the columns 64 bytes, which begin with the f32 scale.
// plane44: a head as codes c of 8 bits, split in two: scale·(2·(c >> 4) − 15) is near the row, adding scale/16·(2·(c & 15) − 15) is
// nearer. First the high halves in ceil(rows/16) panels, each ceil(cols/8) blocks of 64 bytes (byte 4r + b of a block holds those of row
// r, k = 8·block + b in its low bits, k + 4 in its high bits), then three times 16 f32: scale, residual, norm, with residual ≥ ‖what the
// high halves leave of the row‖ and norm ≥ the greatest of ‖row‖ and its two approximations. Behind these panels 64 bytes, which begin
// with the greatest norm as f32, infinite if a row is not finite. Then the low halves in as many panels of 16 rows of ceil(cols/128)
// blocks of 64 bytes (byte b of a block: k = 128·block + b in its low bits, k + 64 in its high bits), then for each row four f32:
// scale/16, the residual that both halves leave, norm, 0. What stands for columns past the last has no meaning.
struct Resident {
  const uint8_t* data;
  int64_t rows;
  int64_t cols;
  int64_t nbytes;
};

// Where the parts of a plane44 resident begin, and how long they are, in bytes.
struct PlaneLayout {
  int64_t n_panels, high_blocks, high_panel, greatest_norm, low_begin, low_blocks, low_row, low_panel, nbytes;
  [[gnu::always_inline]] PlaneLayout(int64_t rows, int64_t cols)
      : n_panels((rows + kPanelRows - 1) / kPanelRows),
        high_blocks((cols + 7) / 8),
        high_panel(64 * high_blocks + 12 * kPanelRows),
        greatest_norm(n_panels * high_panel),
        low_begin(greatest_norm + 64),
        low_blocks((cols + 127) / 128),
        low_row(64 * low_blocks),
        low_panel(kPanelRows * (low_row + 16)),
        nbytes(low_begin + n_panels * low_panel) {}
};

struct BatchView {
  const int32_t* tokens;
  const int32_t* positions;
  const int32_t* slots;
  const int32_t* block_tables;  // [n_slots][table_width]
  int64_t table_width;
  const int32_t* outputs;
  int32_t top_k;  // 0: full logits
  const int32_t* tiles;  // attention: rows tiles[i] … tiles[i + 1] − 1 are of one slot, at most kTileRows
  int32_t n_splits;      // attention: splits of a row that are units of their own; 0: a unit takes all
  const float* temperatures;  // of the outputs: above 0 where the weight of what is no candidate is wanted; null: nowhere
  bool is_screened;           // a logit of −∞ stands for one that its upper bound rules out
};

// One layer of the paged cache. Block b begins b·block_stride bytes behind `keys` and `values`: all layers' parts of a block stand
// together, so that large pages fill as sequences grow. Keys [n_kv_heads][head_dim][kv_block] (the positions of a block side by side, so
// that lanes are keys), values [n_kv_heads][kv_block][head_dim]. f16; or int8, each head followed by kv_block float32 scales, one a
// position. A block's values are followed by at least 64 bytes that may be read.
struct KvLayer {
  uint8_t* keys;
  uint8_t* values;
  int64_t block_stride;
};

// Where the workers of a step leave sums that all of them have a part in. Between steps everything is zero.
struct Partials {
  int32_t* sums;   // n_workers times kColumnTokens times `stride`; the last of a worker's first says that it took part
  int64_t stride;  // a multiple of 16
  int64_t n_workers;
  int64_t worker;  // that runs this call
  int64_t* done;   // units whose sums are there
  [[gnu::always_inline]] int32_t* of(int64_t i, int64_t token) const { return sums + (i * kColumnTokens + token) * stride; }
};

// Units of a linear on i2s_columns: of few tokens, one after the other, parts of the columns; of many, groups of tokens that a worker
// takes through all columns, as many for each.
struct ColumnUnits {
  int64_t t, k, n_groups, n_parts;
  [[gnu::always_inline]] ColumnUnits(int64_t tokens, int64_t columns, int64_t n_workers) : t(tokens), k(columns), n_groups(1), n_parts(1) {
    if (t <= kColumnParts) {
      n_parts = 2 * n_workers;
      return;
    }
    n_groups = ((t + kColumnTokens - 1) / kColumnTokens + n_workers - 1) / n_workers * n_workers;
    if (n_groups > t) n_groups = t;
  }
  [[gnu::always_inline]] int64_t size() const { return n_groups * n_parts; }
  [[gnu::always_inline]] int64_t first_token(int64_t group) const { return t * group / n_groups; }
  [[gnu::always_inline]] int64_t first_column(int64_t part) const { return part == n_parts ? k : k * part / n_parts / kLanes * kLanes; }
};

struct Call {
  int64_t t;  // rows of the step's domain: tokens or outputs
  Operand in[kMaxOperands];
  Operand out[kMaxOperands];
  const int32_t* ints;  // in the order of the op's row in src/tritium/ops.py
  const float* floats;
  Resident weights[kMaxResidents];
  BatchView batch;
  KvLayer kv;
  int32_t kv_block;
  float* scratch;         // this worker's, scratch_floats long, 64-byte aligned
  int64_t scratch_floats;
  float* parts;       // all workers', of attention whose splits are units
  int32_t* arrivals;  // likewise: units done of each tile and key-value head, zero between steps
  Partials partials;
};

// A range [begin, end) of the op's units:
//   linear                 panels of 16 rows; on i2s_columns, those of ColumnUnits
//   logits_projection, screen, refine, rescore   groups of 16 vocabulary rows
//   attention              (tile · n_kv_heads + kv_head) · n_splits + split, without splits if n_splits is 0
//   all others             rows
using KernelFn = void (*)(const Call& call, int64_t begin, int64_t end, Work& work);

struct Kernel {
  const char* id;
  const char* op;
  const char* layout;
  const char* isa;
  int32_t t_min;
  int32_t t_max;  // 0: unbounded
  KernelFn run;
  bool forms_tables;  // of kTableLeast tokens and more: anew in each call, so that few tokens and many panels suit it
};

// The symbols of a kernel unit: extern "C" const Kernel* tritium_kernels_<isa>(int64_t* n), and what csrc/sha256_ways.h says.
using KernelTable = const Kernel* (*)(int64_t* n);

}  // namespace tritium
