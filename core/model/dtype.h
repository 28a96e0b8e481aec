/* dtype.h - element types of stored tensors, with GGUF's numbers and block shapes. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, GGUF number, elements a block, bytes a block.
 * Adding one? Also quant.c (dequantize), the repackers of each backend, tests/unit/model/quant. */
#define QH_DTYPE_LIST(X)                                                                           \
    X(F32, 0, 1, 4)                                                                                \
    X(F16, 1, 1, 2)                                                                                \
    X(Q4_0, 2, 32, 18)                                                                             \
    X(Q4_1, 3, 32, 20)                                                                             \
    X(Q5_0, 6, 32, 22)                                                                             \
    X(Q5_1, 7, 32, 24)                                                                             \
    X(Q8_0, 8, 32, 34)                                                                             \
    X(Q2_K, 10, 256, 84)                                                                           \
    X(Q3_K, 11, 256, 110)                                                                          \
    X(Q4_K, 12, 256, 144)                                                                          \
    X(Q5_K, 13, 256, 176)                                                                          \
    X(Q6_K, 14, 256, 210)                                                                          \
    X(IQ4_NL, 20, 32, 18)                                                                          \
    X(IQ4_XS, 23, 256, 136)                                                                        \
    X(BF16, 30, 1, 2)

typedef enum {
#define X(name, number, n, bytes) QH_##name = number,
    QH_DTYPE_LIST(X)
#undef X
} qh_dtype;

bool        qh_dtype_is_known(uint32_t number);
const char *qh_dtype_name(qh_dtype t);          /* "Q4_K" */
int         qh_dtype_block_len(qh_dtype t);     /* elements a block */
size_t      qh_dtype_block_bytes(qh_dtype t);
/* Bytes of a row of dim elements; 0 when dim is not a whole number of blocks, or too large to say. */
size_t      qh_dtype_row_bytes(qh_dtype t, int64_t dim);
