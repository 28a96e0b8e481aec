/* mma.cuh - tensor core products. Fragments are named as in the PTX manual: lane 4*g + t holds
 * rows g and g+8 of A (16 x 16) and column g of B (16 x 8); of the result c0, c1: row g, columns
 * 2t, 2t+1, c2, c3: row g+8. */
#pragma once
#include <stdint.h>

static __device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
