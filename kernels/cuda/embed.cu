/* embed: x[row, k] = table[tokens[row], k]
 *
 * Shapes    x [n_rows, dim] float; table a tiled matrix of n_vocab rows; tokens [n_rows], in range.
 * Launch    grid n_rows, block 256, no shared memory. One block owns one row.
 * Traffic   4*dim bytes out a row; of the table, the 32-byte sectors that the row touches.
 * Numerics  the packed value in float.
 * Oracle    qh_dequantize of the row, as for pack; tests/gpu/kernels_test.c */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

static __global__ __launch_bounds__(256)
void embed(float *x, qh_tiles table, const int *tokens)
{
    /* No start_next: whoever comes later may read the angles, which lie before this launch, ahead of
     * its wait. */
    wait_for_inputs();
    const int token = tokens[blockIdx.x];
    const int unit_bytes = tile_infos[table.tile].unit_bytes;
    const uint8_t *tile = table.units + (size_t)(token / QH_TILE_ROWS) * table.n_units * unit_bytes;
    for (int k = threadIdx.x; k < table.dim; k += blockDim.x)
        x[(size_t)blockIdx.x * table.dim + k] =
            tile_value(table.tile, tile + (size_t)(k / QH_UNIT_DIM) * unit_bytes,
                       token % QH_TILE_ROWS, k % QH_UNIT_DIM);
}

cudaError_t qh_cuda_embed(float *x, const qh_tiles *table, const int *tokens, int n_rows,
                          cudaStream_t stream)
{
    if (n_rows == 0) return cudaSuccess;
    return launch(embed, n_rows, 256, stream, x, *table, tokens);
}
