/* matrix_avxvnni_evex.c - the same as matrix_avxvnni.c for machines that have VNNI in 256 bits only
 * as a part of AVX-512: they run (and test) the level as well. */
#define QH_HAS_VNNI
#include "kernels/cpu/lanes_avx2.h"
#define QH_LEVEL qh_matrix_avxvnni_evex
#include "kernels/cpu/matrix_level.h"
