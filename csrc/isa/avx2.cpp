// AVX2 and F16C: vpmaddubsw for the integer products, two registers for sixteen lanes.
#include "generic/lanes_avx2.h"

#define TRITIUM_ROW_avx2 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/logits.h"
#include "generic/norm.h"
#include "generic/rope.h"
#include "generic/select.h"
#include "generic/dot_avx2.h"
#include "generic/linear_avx2.h"
#include "generic/tables_avx2.h"
#include "generic/groups_avx2.h"
#include "generic/plane_avx2.h"
#include "generic/rescore.h"
#include "generic/sparse_avx2.h"
#include "generic/sparse.h"
#include "generic/sha256_lanes.h"

#include "generic/kernel_table.h"
