/* matrix_neon.c - the kernels of every AArch64. */
#include "kernels/cpu/lanes_neon.h"
#define QH_LEVEL qh_matrix_neon
#include "kernels/cpu/matrix_level.h"
