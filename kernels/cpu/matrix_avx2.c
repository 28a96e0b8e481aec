/* matrix_avx2.c - the kernels in 256 bits without a dot instruction. */
#include "kernels/cpu/lanes_avx2.h"
#define QH_LEVEL qh_matrix_avx2
#include "kernels/cpu/matrix_level.h"
