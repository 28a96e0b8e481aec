/* kv_type.h - how a backend stores keys and values. Not every backend and level has each. */
#pragma once

/* name, text */
#define QH_KV_TYPE_LIST(X)                                                                         \
    X(BF16, "bf16")                                                                                \
    X(Q8_0, "q8_0")                 /* 8 bits, a scale for each 32 of a token's dimensions */

typedef enum {
#define X(name, text) QH_KV_##name,
    QH_KV_TYPE_LIST(X)
#undef X
    QH_N_KV_TYPE
} qh_kv_type;
