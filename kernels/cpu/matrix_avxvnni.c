/* matrix_avxvnni.c - the kernels in 256 bits with VNNI in its VEX form. */
#define QH_HAS_VNNI
#include "kernels/cpu/lanes_avx2.h"
#define QH_LEVEL qh_matrix_avxvnni
#include "kernels/cpu/matrix_level.h"
