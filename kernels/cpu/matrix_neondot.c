/* matrix_neondot.c - the kernels of AArch64 with the dot product extension. */
#define QH_HAS_DOT
#include "kernels/cpu/lanes_neon.h"
#define QH_LEVEL qh_matrix_neondot
#include "kernels/cpu/matrix_level.h"
