/* dtype.c - see dtype.h */
#include "model/dtype.h"
#include "base/err.h"

typedef struct {
    const char *name;
    int block_len;
    size_t block_bytes;
} dtype_info;

static const dtype_info *info_of(uint32_t number)
{
    static const dtype_info table[] = {
#define X(name, number, n, bytes) [number] = {#name, n, bytes},
        QH_DTYPE_LIST(X)
#undef X
    };
    if (number >= sizeof table / sizeof *table || !table[number].name) return NULL;
    return &table[number];
}

static const dtype_info *known(qh_dtype t)
{
    const dtype_info *info = info_of((uint32_t)t);
    qh_assert(info);
    return info;
}

bool qh_dtype_is_known(uint32_t number) { return info_of(number) != NULL; }
const char *qh_dtype_name(qh_dtype t) { return known(t)->name; }
int qh_dtype_block_len(qh_dtype t) { return known(t)->block_len; }
size_t qh_dtype_block_bytes(qh_dtype t) { return known(t)->block_bytes; }

size_t qh_dtype_row_bytes(qh_dtype t, int64_t dim)
{
    const dtype_info *info = known(t);
    size_t bytes;
    if (dim <= 0 || dim % info->block_len) return 0;
    if (__builtin_mul_overflow((size_t)(dim / info->block_len), info->block_bytes, &bytes)) return 0;
    return bytes;
}
