/* ref.c - see ref.h */
#include "kernels/cpu/ref.h"
#include <math.h>
#include <string.h>

void qh_ref_rms_norm(float *y, const float *x, const float *w, int dim, float eps)
{
    double sum = 0;
    for (int i = 0; i < dim; i++) sum += (double)x[i] * x[i];
    double scale = 1 / sqrt(sum / dim + eps);
    for (int i = 0; i < dim; i++) y[i] = (float)(x[i] * scale * w[i]);
}

void qh_ref_silu_mul(float *gate, const float *up, int n)
{
    for (int i = 0; i < n; i++) gate[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

void qh_ref_add(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] += x[i];
}

void qh_ref_rope(float *x, const float *cos_sin, int dim, bool is_interleaved)
{
    for (int i = 0; i < dim / 2; i++) {
        int j = is_interleaved ? 2 * i : i, k = is_interleaved ? 2 * i + 1 : i + dim / 2;
        double a = x[j], b = x[k], c = cos_sin[j], s = cos_sin[dim + k];
        x[j] = (float)(a * c - b * s);
        x[k] = (float)(a * s + b * c);
    }
}

static double dot(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

void qh_ref_attention(float *out, const float *q, const float *k, const float *v, int ld,
                      int n_keys, int head_dim, float scale)
{
    double max = -INFINITY, weight = 0, sum[QH_MAX_HEAD_DIM] = {0};
    for (int t = 0; t < n_keys; t++) max = fmax(max, scale * dot(q, k + (size_t)t * ld, head_dim));
    for (int t = 0; t < n_keys; t++) {
        double w = exp(scale * dot(q, k + (size_t)t * ld, head_dim) - max);
        weight += w;
        for (int i = 0; i < head_dim; i++) sum[i] += w * v[(size_t)t * ld + i];
    }
    for (int i = 0; i < head_dim; i++) out[i] = (float)(sum[i] / weight);
}

const qh_float_ops qh_float_ops_ref = {.rms_norm = qh_ref_rms_norm,
                                       .silu_mul = qh_ref_silu_mul,
                                       .add = qh_ref_add,
                                       .rope = qh_ref_rope};

/* The ref level's attention: float keys [token][dim], then values; natural exponentials. */
enum { T = QH_PAGE_TOKENS };

static size_t block_bytes(int head_dim)
{
    return (size_t)qh_attn_padded(head_dim) * T * 2 * sizeof(float);
}

static void append(void *block, int head_dim, int slot, const float *k, const float *v)
{
    const int d = qh_attn_padded(head_dim);
    memcpy((float *)block + (size_t)slot * d, k, (size_t)head_dim * sizeof *k);
    memcpy((float *)block + (size_t)(T + slot) * d, v, (size_t)head_dim * sizeof *v);
}

static void prepare(const qh_attn_job *job) { (void)job; }

/* Keys of one range for one query: the largest score first, then the weights against it. */
static void attend(const qh_attn_job *job, const float *q, int begin, int end, float *state)
{
    const int d = qh_attn_padded(job->head_dim);
    double max = -1e30, weight = 0, sum[QH_MAX_HEAD_DIM] = {0}, score[QH_ATTN_RANGE_TOKENS];
    for (int t = begin; t < end; t++) {
        const float *block =
            (const float *)(job->blocks + (size_t)job->pages[t / T] * job->page_bytes);
        score[t - begin] = job->scale * dot(q, block + (size_t)(t % T) * d, job->head_dim);
        max = fmax(max, score[t - begin]);
    }
    max = (float)max;
    for (int t = begin; t < end; t++) {
        const float *block =
            (const float *)(job->blocks + (size_t)job->pages[t / T] * job->page_bytes);
        const float *v = block + (size_t)(T + t % T) * d;
        double w = exp(score[t - begin] - max);
        weight += w;
        for (int i = 0; i < job->head_dim; i++) sum[i] += w * v[i];
    }
    for (int i = 0; i < job->head_dim; i++) state[i] = (float)sum[i];
    state[d + QH_ATTN_STATE_MAX] = (float)max;
    state[d + QH_ATTN_STATE_WEIGHT] = (float)weight;
}

static void range(const qh_attn_job *job, int index, float *states)
{
    const int d = qh_attn_padded(job->head_dim), len = qh_attn_state_len(job->head_dim);
    const int begin = index * QH_ATTN_RANGE_TOKENS;
    qh_attn_clear(states, job->n_rows * job->n_group, job->head_dim);
    for (int i = 0; i < job->n_rows * job->n_group; i++) {
        int end = job->first_pos + i / job->n_group + 1;
        if (end > begin + QH_ATTN_RANGE_TOKENS) end = begin + QH_ATTN_RANGE_TOKENS;
        if (end > begin) attend(job, job->q + (size_t)i * d, begin, end, states + (size_t)i * len);
    }
}

static void merge(float *total, const float *part, int n, int head_dim)
{
    const int d = qh_attn_padded(head_dim), len = qh_attn_state_len(head_dim);
    for (int i = 0; i < n; i++, total += len, part += len) {
        double t_max = total[d + QH_ATTN_STATE_MAX], p_max = part[d + QH_ATTN_STATE_MAX];
        double max = fmax(t_max, p_max), a = exp(t_max - max), b = exp(p_max - max);
        for (int c = 0; c < head_dim; c++) total[c] = (float)(total[c] * a + part[c] * b);
        total[d + QH_ATTN_STATE_MAX] = (float)max;
        total[d + QH_ATTN_STATE_WEIGHT] =
            (float)(total[d + QH_ATTN_STATE_WEIGHT] * a + part[d + QH_ATTN_STATE_WEIGHT] * b);
    }
}

static void finish(float *out, const float *state, int head_dim)
{
    double weight = state[qh_attn_padded(head_dim) + QH_ATTN_STATE_WEIGHT];
    for (int i = 0; i < head_dim; i++) out[i] = (float)(state[i] / weight);
}

const qh_attn_ops qh_attn_ops_ref = {.block_bytes = block_bytes,
                                     .append = append,
                                     .prepare = prepare,
                                     .range = range,
                                     .merge = merge,
                                     .finish = finish};
