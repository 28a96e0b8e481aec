/* matrix_avx512.c - the kernels in 512 bits with VNNI. */
#include "kernels/cpu/lanes_avx512.h"
#define QH_LEVEL qh_matrix_avx512
#include "kernels/cpu/matrix_level.h"
