// AVX-512 with VNNI: vpdpbusd for the integer products, one register for sixteen lanes.
#include "generic/lanes_avx512.h"

#define TRITIUM_ROW_avx512vnni 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/linear_avx512.h"
#include "generic/logits.h"
#include "generic/norm.h"
#include "generic/rope.h"
#include "generic/select.h"
#include "generic/plane_avx512.h"
#include "generic/rescore.h"
#include "generic/sparse_avx512.h"
#include "generic/sparse.h"
#include "generic/trits_avx512.h"
#include "generic/sha256_lanes.h"

#include "generic/kernel_table.h"
