/* truncate.c - see truncate.h */
#include "engine/truncate.h"
#include "base/hash.h"
#include <float.h>
#include <math.h>

void qh_cand_set_init(qh_cand_set *s, const qh_logits *row, qh_cand *list, float *scratch)
{
    *s = (qh_cand_set){.row = row, .is_all = true, .list = list, .scratch = scratch};
}

static void make_list(qh_cand_set *s, float lo)
{
    s->n = qh_logits_gather(s->row, lo > -FLT_MAX ? lo : -FLT_MAX, INFINITY, s->list);
    s->is_all = false;
}

static bool comes_before(const qh_cand *a, const qh_cand *b)
{
    return a->key != b->key ? a->key < b->key : a->id < b->id;
}

static void swap(qh_cand *a, qh_cand *b)
{
    qh_cand t = *a;
    *a = *b;
    *b = t;
}

/* Quickselect by weight: reorders c so that its first m entries are the smallest keys whose weights add
 * up to target, m as small as possible; returns m (n when they never do). Expected O(n). */
static int select_mass(qh_cand *c, int n, double target)
{
    int lo = 0, hi = n;                             /* the answer ends in [lo, hi) */
    double below = 0;                               /* weight of c[0..lo) */
    while (hi > lo) {
        uint64_t luck = qh_hash_mix((uint64_t)lo << 32 | (uint32_t)hi);
        swap(&c[lo + (int)(luck % (uint64_t)(hi - lo))], &c[hi - 1]);
        int mid = lo;
        double weight = 0;
        for (int i = lo; i < hi - 1; i++) {
            if (!comes_before(&c[i], &c[hi - 1])) continue;
            weight += c[i].weight;
            swap(&c[i], &c[mid++]);
        }
        swap(&c[mid], &c[hi - 1]);
        if (below + weight >= target && mid > lo) {
            hi = mid;
        } else if (below + weight + c[mid].weight >= target) {
            return mid + 1;
        } else {
            below += weight + c[mid].weight;
            lo = mid + 1;
        }
    }
    return lo;
}

static void top_k(qh_cand_set *s, int k)
{
    if (k >= (s->is_all ? s->row->n : s->n)) return;
    make_list(s, qh_logits_bound_of_best(s->row, k, s->scratch));
    for (int i = 0; i < s->n; i++) s->list[i].key = -s->list[i].logit, s->list[i].weight = 1;
    s->n = select_mass(s->list, s->n, k);
}

static double weigh(qh_cand_set *s) { return qh_cands_weigh(s->list, s->n, s->row->max); }

/* A share of 0 still keeps one token: the first whose weight is not 0. */
static double mass_of(float share, double sum) { return fmax((double)share * sum, DBL_MIN); }

/* From the top down, layer by layer, until the list holds the mass. */
static void gather_mass(qh_cand_set *s, double mass)
{
    float hi = INFINITY, depth = 4;
    double sum = 0;
    s->is_all = false;
    s->n = 0;
    while (sum < mass && hi > -FLT_MAX) {
        float lo = depth < 120 ? s->row->max - depth : -FLT_MAX;    /* below, every weight is 0 */
        int n = qh_logits_gather(s->row, lo, hi, s->list + s->n);
        sum += qh_cands_weigh(s->list + s->n, n, s->row->max);
        s->n += n;
        hi = lo;
        depth *= 1.4f;
    }
}

static void top_p(qh_cand_set *s, float p)
{
    double target = mass_of(p, s->is_all ? qh_logits_sum_exp(s->row) : weigh(s));
    if (s->is_all) gather_mass(s, target);
    for (int i = 0; i < s->n; i++) s->list[i].key = -s->list[i].logit;
    s->n = select_mass(s->list, s->n, target);
}

static void keep_from(qh_cand_set *s, float lo)
{
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->list[i].logit >= lo) s->list[n++] = s->list[i];
    s->n = n;
}

static void min_p(qh_cand_set *s, float p)
{
    float lo = s->row->max + logf(p);
    if (s->is_all) make_list(s, lo);
    else keep_from(s, lo);
}

static void typical_p(qh_cand_set *s, float p)
{
    if (s->is_all) make_list(s, -FLT_MAX);
    double sum = weigh(s), mean = 0;
    for (int i = 0; i < s->n; i++)
        mean += s->list[i].weight * (double)(s->row->max - s->list[i].logit);
    mean /= sum;        /* entropy - log(sum), so that surprise - entropy = (max - logit) - mean */
    for (int i = 0; i < s->n; i++)
        s->list[i].key = fabsf((float)((double)(s->row->max - s->list[i].logit) - mean));
    s->n = select_mass(s->list, s->n, mass_of(p, sum));
}

static void exclude_top(qh_cand_set *s, float threshold)
{
    double sum = s->is_all ? qh_logits_sum_exp(s->row) : weigh(s);
    float lo = s->row->max + (float)log(threshold * sum);
    int n_top = 0;
    const qh_cand *least = NULL;
    if (s->is_all) make_list(s, -FLT_MAX);
    for (int i = 0; i < s->n; i++) {
        const qh_cand *c = &s->list[i];
        if (c->logit < lo) continue;
        n_top++;
        if (!least || c->logit < least->logit || (c->logit == least->logit && c->id > least->id))
            least = c;
    }
    if (n_top < 2) return;
    qh_cand keep = *least;
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->list[i].logit < lo || s->list[i].id == keep.id) s->list[n++] = s->list[i];
    s->n = n;
}

void qh_truncate(qh_cand_set *s, const qh_sampling *spec, float coin)
{
    if (spec->top_k > 0) top_k(s, spec->top_k);
    if (spec->top_p < 1) top_p(s, spec->top_p);
    if (spec->min_p > 0) min_p(s, spec->min_p);
    if (spec->typical_p < 1) typical_p(s, spec->typical_p);
    if (spec->xtc_probability > 0 && coin < spec->xtc_probability)
        exclude_top(s, spec->xtc_threshold);
}
