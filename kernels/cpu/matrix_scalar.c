/* matrix_scalar.c - the kernels every machine can run. */
#include "kernels/cpu/lanes_scalar.h"
#define QH_LEVEL qh_matrix_scalar
#include "kernels/cpu/matrix_level.h"
