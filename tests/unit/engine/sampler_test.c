/* Every sampler against a naive oracle in double, and the draws against the distribution they stand for. */
#include "test.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/dry.h"
#include "engine/sampler.h"
#include "engine/truncate.h"
#include "fake_vocab.h"
#include <math.h>

enum { MAX_VOCAB = 3000 };

static uint64_t luck;
static uint32_t roll(uint32_t n) { return qh_rng_philox(luck++, 8, 9).v[0] % n; }
static int between(int lo, int hi) { return lo + (int)roll((uint32_t)(hi - lo + 1)); }
static float unit(void) { return qh_rng_unit(qh_rng_philox(luck++, 8, 9).v[0]); }

/* Logits as models give them: a few high, many low, ties and bans among them. */
static void random_row(float *row, int n, float spread)
{
    for (int i = 0; i < n; i++) {
        row[i] = -logf(unit()) * spread * (unit() < 0.5f ? 1 : -1);
        if (roll(16) == 0) row[i] = roundf(row[i]);
    }
}

/* The naive oracle -------------------------------------------------------------------------------*/

typedef struct {
    int id;
    double logit, p, key;
} tok;

typedef struct {
    tok *t;                         /* who is still in, most probable first */
    int n;
    bool is_doubtful[MAX_VOCAB];    /* in or out by a rounding error */
} naive_set;

static int by_key(const void *a, const void *b)
{
    const tok *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->id - y->id;
}

static void sort_by_logit(naive_set *s)
{
    for (int i = 0; i < s->n; i++) s->t[i].key = -s->t[i].logit;
    qsort(s->t, (size_t)s->n, sizeof *s->t, by_key);
}

static void softmax(naive_set *s)
{
    double sum = 0;
    for (int i = 0; i < s->n; i++) sum += s->t[i].p = exp(s->t[i].logit - s->t[0].logit);
    for (int i = 0; i < s->n; i++) s->t[i].p /= sum;
}

/* Keep the first ones until their mass reaches p; within a hair of it, both answers are right. */
static void cut_mass(naive_set *s, double p)
{
    double mass = 0;
    int n = 0;
    for (; n < s->n && (mass < p || n == 0); n++) {
        if (n > 0 && fabs(mass - p) < 1e-6) s->is_doubtful[s->t[n].id] = true;
        mass += s->t[n].p;
    }
    for (int i = n; i < s->n && fabs(mass - p) < 1e-6; i++)
        s->is_doubtful[s->t[i].id] = true, mass += s->t[i].p;
    if (n > 0 && fabs(mass - p) < 1e-6) s->is_doubtful[s->t[n - 1].id] = true;
    s->n = n;
}

static void naive_truncate(naive_set *s, const float *row, int n_vocab, const qh_sampling *spec,
                           float coin)
{
    s->n = 0;
    for (int i = 0; i < n_vocab; i++)
        if (row[i] > -INFINITY) s->t[s->n++] = (tok){.id = i, .logit = row[i]};
    sort_by_logit(s);
    if (spec->top_k > 0 && s->n > spec->top_k) s->n = spec->top_k;
    softmax(s);
    if (spec->top_p < 1) cut_mass(s, spec->top_p);
    softmax(s);
    if (spec->min_p > 0) {
        int n = 0;
        for (int i = 0; i < s->n; i++) {
            double margin = s->t[i].p / s->t[0].p / spec->min_p - 1;
            if (fabs(margin) < 1e-6) s->is_doubtful[s->t[i].id] = true;
            if (margin >= 0) s->t[n++] = s->t[i];
        }
        s->n = n;
    }
    softmax(s);
    if (spec->typical_p < 1) {
        double entropy = 0;
        for (int i = 0; i < s->n; i++) entropy -= s->t[i].p * log(s->t[i].p);
        for (int i = 0; i < s->n; i++) s->t[i].key = fabs(-log(s->t[i].p) - entropy);
        qsort(s->t, (size_t)s->n, sizeof *s->t, by_key);
        double last_key = s->t[0].key;
        int n_before = s->n;
        cut_mass(s, spec->typical_p);
        if (s->n > 0) last_key = s->t[s->n - 1].key;
        for (int i = 0; i < n_before; i++)
            if (fabs(s->t[i].key - last_key) < 1e-5) s->is_doubtful[s->t[i].id] = true;
        sort_by_logit(s);
    }
    softmax(s);
    if (spec->xtc_probability > 0 && coin < spec->xtc_probability) {
        int n_top = 0;
        while (n_top < s->n && s->t[n_top].p >= spec->xtc_threshold) n_top++;
        for (int i = 0; i < s->n; i++)
            if (fabs(s->t[i].p / spec->xtc_threshold - 1) < 1e-5)
                for (int k = 0; k < s->n; k++) s->is_doubtful[s->t[k].id] = true;
        if (n_top >= 2) {
            s->n -= n_top - 1;
            memmove(s->t, s->t + n_top - 1, sizeof *s->t * (size_t)s->n);
        }
    }
}

/* Truncations ------------------------------------------------------------------------------------*/

static void check_truncation(const float *row, int n, const qh_sampling *spec, float coin)
{
    static tok toks[MAX_VOCAB];
    static qh_cand list[MAX_VOCAB + QH_CAND_SLACK];
    static float block_max[MAX_VOCAB], scratch[MAX_VOCAB];
    static naive_set want;
    bool in_want[MAX_VOCAB] = {false}, in_got[MAX_VOCAB] = {false};
    want = (naive_set){.t = toks};
    naive_truncate(&want, row, n, spec, coin);
    qh_logits l;
    qh_cand_set got;
    CHECK_OK(qh_logits_scan(&l, row, n, block_max, NULL));
    qh_cand_set_init(&got, &l, list, scratch);
    qh_truncate(&got, spec, coin);
    for (int i = 0; i < want.n; i++) in_want[want.t[i].id] = true;
    for (int i = 0; i < n && got.is_all; i++) in_got[i] = row[i] > -INFINITY;
    for (int i = 0; i < got.n && !got.is_all; i++) {
        CHECK(!in_got[got.list[i].id] && got.list[i].logit == row[got.list[i].id]);
        in_got[got.list[i].id] = true;
    }
    int n_wrong = 0;
    for (int i = 0; i < n; i++) n_wrong += in_got[i] != in_want[i] && !want.is_doubtful[i];
    if (n_wrong)
        print_error("vocab %d top_k %d top_p %g min_p %g typical %g xtc %g/%g: %d wrong\n", n,
                    spec->top_k, (double)spec->top_p, (double)spec->min_p, (double)spec->typical_p,
                    (double)spec->xtc_probability, (double)spec->xtc_threshold, n_wrong);
    CHECK_INT(n_wrong, 0);
}

static qh_sampling none(void)
{
    return (qh_sampling){
        .temperature = 1, .top_p = 1, .typical_p = 1, .xtc_threshold = 0.1f, .repeat_penalty = 1};
}

TEST(each_truncation_alone_keeps_what_the_oracle_keeps)
{
    static float row[MAX_VOCAB];
    for (int run = 0; run < 1500; run++) {
        luck = (uint64_t)run << 20;
        int n = run % 3 ? between(1, 300) : between(300, MAX_VOCAB);
        random_row(row, n, (float)between(1, 60) / 10);
        if (n > 1 && roll(3) == 0)
            for (int i = 1; i < n; i += between(2, 9)) row[i] = -INFINITY;
        qh_sampling s = none();
        switch (run % 5) {
        case 0: s.top_k = between(1, n + 3); break;
        case 1: s.top_p = roll(10) ? unit() : 0; break;
        case 2: s.min_p = unit(); break;
        case 3: s.typical_p = roll(10) ? unit() : 0; break;
        default: s.xtc_probability = 0.5f, s.xtc_threshold = unit() * 0.4f; break;
        }
        check_truncation(row, n, &s, unit());
    }
}

TEST(truncations_together_apply_in_their_order)
{
    static float row[MAX_VOCAB];
    for (int run = 0; run < 1500; run++) {
        luck = (uint64_t)run << 20 | 1u << 30;
        int n = between(1, 600);
        random_row(row, n, (float)between(1, 40) / 10);
        qh_sampling s = none();
        if (roll(2)) s.top_k = between(1, n);
        if (roll(2)) s.top_p = 0.3f + 0.7f * unit();
        if (roll(2)) s.min_p = 0.3f * unit();
        if (roll(2)) s.typical_p = 0.3f + 0.7f * unit();
        if (roll(2)) s.xtc_probability = 1, s.xtc_threshold = 0.02f + 0.2f * unit();
        check_truncation(row, n, &s, unit());
    }
}

TEST(equal_logits_are_cut_by_id)
{
    float row[200];
    qh_logits l;
    qh_cand list[200 + QH_CAND_SLACK];
    float block_max[4], scratch[4];
    qh_cand_set set;
    qh_sampling s = none();
    for (int i = 0; i < 200; i++) row[i] = 2;
    s.top_k = 7;
    CHECK_OK(qh_logits_scan(&l, row, 200, block_max, NULL));
    qh_cand_set_init(&set, &l, list, scratch);
    qh_truncate(&set, &s, 1);
    CHECK_INT(set.n, 7);
    for (int i = 0; i < set.n; i++) CHECK(set.list[i].id < 7);
}

/* The row's passes -------------------------------------------------------------------------------*/

TEST(scan_finds_the_first_maximum_and_refuses_what_is_not_a_number)
{
    static float row[MAX_VOCAB], block_max[MAX_VOCAB];
    qh_logits l;
    qh_err err = {0};
    for (int run = 0; run < 300; run++) {
        luck = (uint64_t)run << 20 | 1u << 29;
        int n = between(1, 700), best = 0;
        random_row(row, n, 2);
        for (int i = 0; i < n; i++) best = row[i] > row[best] ? i : best;
        CHECK_OK(qh_logits_scan(&l, row, n, block_max, NULL));
        CHECK_INT(l.argmax, best);
        CHECK(l.max == row[best]);
        row[roll((uint32_t)n)] = NAN;
        CHECK_STATUS(qh_logits_scan(&l, row, n, block_max, NULL), QH_EFORMAT);
    }
    for (int i = 0; i < 100; i++) row[i] = i == 70 ? INFINITY : 0;
    CHECK_STATUS(qh_logits_scan(&l, row, 100, block_max, NULL), QH_EFORMAT);
    for (int i = 0; i < 100; i++) row[i] = -INFINITY;
    CHECK_STATUS(qh_logits_scan(&l, row, 100, block_max, &err), QH_EINVAL);
    CHECK(strstr(err.msg, "logit_bias"));
}

TEST(the_exponential_is_within_its_error_and_the_sum_within_a_millionth)
{
    static float row[MAX_VOCAB], block_max[MAX_VOCAB];
    double worst = 0;
    for (float x = -86.9f; x <= 0; x += 0.00137f)
        worst = fmax(worst, fabs(qh_exp_neg(x) / exp(x) - 1));
    CHECK(worst < 0x1p-21);
    CHECK(qh_exp_neg(0) == 1.0f && qh_exp_neg(-100) == 0.0f && qh_exp_neg(-INFINITY) == 0.0f);
    for (int run = 0; run < 100; run++) {
        luck = (uint64_t)run << 20 | 1u << 28;
        int n = between(1, MAX_VOCAB);
        qh_logits l;
        double sum = 0;
        random_row(row, n, 3);
        CHECK_OK(qh_logits_scan(&l, row, n, block_max, NULL));
        for (int i = 0; i < n; i++) sum += exp((double)row[i] - l.max);
        CHECK(fabs(qh_logits_sum_exp(&l) / sum - 1) < 1e-6);
    }
}

/* Penalties --------------------------------------------------------------------------------------*/

static void naive_penalties(const qh_sampling *s, const qh_history *h, double *row, int n_vocab)
{
    int first = s->penalty_window < 0 ? 0 : h->n_tokens - s->penalty_window;
    for (int id = 0; id < n_vocab; id++) {
        int n_all = 0, n_out = 0;
        for (int i = first < 0 ? 0 : first; i < h->n_tokens; i++) {
            n_all += h->tokens[i] == id;
            n_out += h->tokens[i] == id && i >= h->n_prompt;
        }
        if (n_all)
            row[id] = row[id] > 0 ? row[id] / s->repeat_penalty : row[id] * s->repeat_penalty;
        if (n_out) row[id] -= s->presence_penalty + n_out * (double)s->frequency_penalty;
    }
}

TEST(penalties_count_as_the_oracle_counts_and_leave_the_counters_clean)
{
    enum { N = 40 };
    float row[N];
    double want[N];
    qh_token tokens[150];
    int counts[N] = {0};
    for (int run = 0; run < 2000; run++) {
        luck = (uint64_t)run << 20 | 1u << 27;
        qh_history h = {tokens, between(0, 150), 0};
        h.n_prompt = between(0, h.n_tokens);
        for (int i = 0; i < h.n_tokens; i++) tokens[i] = between(0, N - 1);
        random_row(row, N, 3);
        qh_sampling s = none();
        s.penalty_window = roll(3) ? between(0, 100) : -1;
        s.repeat_penalty = 0.5f + 1.5f * unit();
        s.presence_penalty = 4 * unit() - 2, s.frequency_penalty = 4 * unit() - 2;
        for (int i = 0; i < N; i++) want[i] = row[i];
        naive_penalties(&s, &h, want, N);
        qh_penalties_apply(&s, &h, row, counts);
        for (int i = 0; i < N; i++) CHECK(fabs(row[i] - want[i]) < 1e-4 && counts[i] == 0);
    }
}

/* DRY --------------------------------------------------------------------------------------------*/

/* Tokens of the fake vocabulary: letters, ".", newline, two halves of a character, "ab", "b.". */
static void text_of(const qh_vocab *v, const qh_token *t, int n, char *out, int *ends)
{
    size_t len = 0;
    for (int i = 0; i < n; i++) {
        qh_slice b = qh_vocab_bytes(v, t[i]);
        memcpy(out + len, b.data, b.len);
        ends[i] = (int)(len += b.len);
    }
    out[len] = 0;
}

/* A breaker ends in token i: its last byte lies there. */
static bool breaks_at(const qh_sampling *s, const char *text, const int *ends, int i)
{
    for (int b = 0; b < s->n_dry_breakers; b++) {
        int len = (int)strlen(s->dry_breakers[b]);
        for (int end = (i ? ends[i - 1] : 0) + 1; end <= ends[i]; end++)
            if (end >= len && !memcmp(text + end - len, s->dry_breakers[b], (size_t)len))
                return true;
    }
    return false;
}

static void naive_dry(const qh_sampling *s, const qh_vocab *v, const qh_history *h, double *row)
{
    static char text[4096];
    int ends[400], best[64] = {0};
    int n = s->dry_window < 0 || s->dry_window > h->n_tokens ? h->n_tokens : s->dry_window;
    const qh_token *t = h->tokens + h->n_tokens - n;
    text_of(v, t, n, text, ends);
    for (int i = 0; i < n - 1; i++) {           /* a match that ends at i, followed by t[i + 1] */
        int m = 0;
        while (m <= i && m < QH_DRY_MAX_MATCH && t[i - m] == t[n - 1 - m] &&
               !breaks_at(s, text, ends, n - 1 - m))
            m++;
        if (m > best[t[i + 1]]) best[t[i + 1]] = m;
    }
    for (int id = 0; id < 64; id++) {
        qh_slice own = qh_vocab_bytes(v, id);
        bool is_breaker = false;
        for (int b = 0; b < s->n_dry_breakers; b++)
            is_breaker |=
                memmem(own.data, own.len, s->dry_breakers[b], strlen(s->dry_breakers[b])) != NULL;
        if (best[id] >= s->dry_allowed_length && !is_breaker)
            row[id] -= s->dry_multiplier * pow(s->dry_base, best[id] - s->dry_allowed_length);
    }
}

TEST(dry_penalizes_what_the_oracle_penalizes)
{
    enum { N = 40 };
    qh_vocab *v = fake_vocab(64);
    static const char *const BREAKERS[] = {"\n", ".", "b.", "a", "ab.", "z\n"};
    float row[64];
    double want[64];
    qh_token tokens[300];
    int lengths[300], matches[64] = {0}, n_hit = 0;
    for (int run = 0; run < 3000; run++) {
        luck = (uint64_t)run << 20 | 1u << 26;
        qh_history h = {tokens, between(0, 300), 0};
        int n_kinds = between(1, 6);
        for (int i = 0; i < h.n_tokens; i++)
            tokens[i] = i > 30 && roll(2)
                            ? tokens[i - 7]
                            : (qh_token[]){0, 1, 26, 27, 30, 31}[roll((uint32_t)n_kinds)];
        qh_sampling s = none();
        char *breakers[3];
        s.dry_breakers = breakers, s.n_dry_breakers = between(0, 3);
        for (int i = 0; i < s.n_dry_breakers; i++) breakers[i] = (char *)BREAKERS[roll(6)];
        s.dry_multiplier = 0.1f + unit(), s.dry_base = 1 + 0.1f * unit(),
        s.dry_allowed_length = between(1, 5);
        s.dry_window = roll(2) ? -1 : between(1, 200);
        for (int i = 0; i < 64; i++) want[i] = row[i] = 1;
        naive_dry(&s, v, &h, want);
        qh_dry_apply(&s, v, &h, row, lengths, matches);
        for (int i = 0; i < 64; i++) {
            CHECK(fabs(row[i] - want[i]) < 1e-3 * (1 + fabs(want[i])));
            CHECK_INT(matches[i], 0);
            n_hit += want[i] != 1;
        }
    }
    CHECK(n_hit > 3000);
    qh_vocab_free(v);
}

/* Draws ------------------------------------------------------------------------------------------*/

typedef struct {
    qh_vocab *vocab;
    qh_sampler *sampler;
    int n;
} bench;

static bench open_bench(int n)
{
    bench b = {.vocab = fake_vocab(n), .n = n};
    CHECK_OK(qh_sampler_new(&b.sampler, b.vocab, n, 4096, NULL));
    return b;
}

static void close_bench(bench *b)
{
    qh_sampler_free(b->sampler);
    qh_vocab_free(b->vocab);
}

static qh_token naive_draw(const float *row, int n, const qh_sampling *spec, const qh_draw *d)
{
    static tok toks[MAX_VOCAB];
    static naive_set set;
    float max = -INFINITY, best = -INFINITY;
    qh_token winner = QH_NO_TOKEN;
    float coin = qh_rng_unit(
        qh_rng_gumbel_bits(d->seed, d->choice, (uint32_t)d->history.n_tokens, UINT32_MAX));
    set = (naive_set){.t = toks};
    naive_truncate(&set, row, n, spec, coin);
    for (int i = 0; i < n; i++) max = row[i] > max ? row[i] : max;
    for (int i = 0; i < set.n; i++) {
        qh_token id = set.t[i].id;
        if (set.is_doubtful[id]) return QH_NO_TOKEN;
        float noise =
            spec->temperature == 0
                ? 0
                : qh_rng_gumbel(d->seed, d->choice, (uint32_t)d->history.n_tokens, (uint32_t)id);
        float score =
            spec->temperature == 0 ? row[id] : (row[id] - max) / spec->temperature + noise;
        if (score > best || (score == best && id < winner)) best = score, winner = id;
    }
    return winner;
}

TEST(skipping_by_the_noise_bound_never_changes_a_draw)
{
    static float row[MAX_VOCAB], edited[MAX_VOCAB];
    static qh_token history[MAX_VOCAB];
    bench b = open_bench(MAX_VOCAB);
    int n_sure = 0;
    for (int run = 0; run < 1500; run++) {
        luck = (uint64_t)run << 20 | 1u << 25;
        random_row(row, b.n, (float)between(1, 50) / 10);
        qh_sampling s = none();
        s.temperature = (float[]){0, 0.01f, 0.3f, 0.7f, 1, 2, 100}[roll(7)];
        if (roll(4) == 0) s.top_k = between(1, 200);
        if (roll(4) == 0) s.top_p = unit();
        if (roll(4) == 0) s.min_p = unit() * 0.2f;
        if (roll(6) == 0) s.xtc_probability = 0.5f, s.xtc_threshold = 0.02f;
        qh_logit_bias bias[3] = {
            {between(0, b.n - 1), 3}, {between(0, b.n - 1), -INFINITY}, {between(0, b.n - 1), -2}};
        if (roll(3) == 0) s.bias = bias, s.n_bias = 3;
        qh_token banned[2] = {between(0, b.n - 1), between(0, b.n - 1)}, got;
        const qh_draw d = {
            .spec = &s,
            .logits = row,
            .history = {history, between(0, 2000), 0},
            .seed = roll(1000),
            .choice = roll(4),
            .banned = banned,
            .n_banned = between(0, 2),
        };
        memcpy(edited, row, sizeof row);
        for (int i = 0; i < s.n_bias; i++) edited[bias[i].id] += bias[i].bias;
        for (int i = 0; i < d.n_banned; i++) edited[banned[i]] = -INFINITY;
        CHECK_OK(qh_sampler_draw(b.sampler, &d, &got, NULL));
        qh_token want = naive_draw(edited, b.n, &s, &d);
        if (want == QH_NO_TOKEN) continue;
        CHECK_INT(got, want);
        n_sure++;
    }
    CHECK(n_sure > 1000);
    close_bench(&b);
}

/* The position below 4000 at which some token of the block has the largest noise; its id in *id. */
static int luckiest(uint64_t seed, qh_token first, qh_token *id, float *noise)
{
    int at = 0;
    *noise = -INFINITY;
    for (int pos = 0; pos < 4000; pos++) {
        uint32_t bits[64];
        qh_rng_gumbel_bits64(seed, 0, (uint32_t)pos, (uint32_t)first, bits);
        for (int i = 0; i < 64; i++) {
            float g = qh_rng_gumbel_of(bits[i]);
            if (g > *noise) *noise = g, *id = first + i, at = pos;
        }
    }
    return at;
}

TEST(a_token_far_behind_wins_when_its_noise_is_extreme)
{
    static float row[MAX_VOCAB];
    static qh_token history[4096];
    bench b = open_bench(MAX_VOCAB);
    qh_sampling s = none();
    for (uint64_t seed = 0; seed < 20; seed++) {
        qh_token id = 0, got;
        float noise;
        int pos = luckiest(seed, 640, &id, &noise);
        float leader = qh_rng_gumbel(seed, 0, (uint32_t)pos, 0);
        CHECK(noise > 10);
        for (int dense = 0; dense < 2; dense++) {           /* alone in its block, and among runners */
            for (int i = 0; i < b.n; i++)
                row[i] = i == 0 ? 5 : dense && i / 64 == 10 ? 5 - noise : -1000;
            row[id] = 5 - (noise - leader) + 0.01f;         /* just enough */
            const qh_draw d = {
                .spec = &s, .logits = row, .history = {history, pos, 0}, .seed = seed};
            CHECK_OK(qh_sampler_draw(b.sampler, &d, &got, NULL));
            CHECK_INT(got, id);
            row[id] -= 0.02f;
            CHECK_OK(qh_sampler_draw(b.sampler, &d, &got, NULL));
            CHECK(got != id);
        }
    }
    close_bench(&b);
}

/* Pearson's chi-square over the tokens that are expected often enough. */
static double chi_square(const int *hits, const double *p, int n, int n_draws, int *n_cells)
{
    double sum = 0, rest = 1, rest_hits = n_draws;
    *n_cells = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] * n_draws < 20) continue;
        double want = p[i] * n_draws;
        sum += (hits[i] - want) * (hits[i] - want) / want;
        rest -= p[i], rest_hits -= hits[i];
        ++*n_cells;
    }
    if (rest * n_draws >= 20)
        sum += (rest_hits - rest * n_draws) * (rest_hits - rest * n_draws) / (rest * n_draws),
            ++*n_cells;
    return sum;
}

static void check_distribution(const qh_sampling *spec, bool by_position)
{
    enum { N = 400, N_DRAWS = 40000 };
    static tok toks[MAX_VOCAB];
    static naive_set set;
    float row[N];
    double p[N] = {0}, sum = 0;
    int hits[N] = {0}, n_cells;
    qh_token history[4096] = {0}, id;
    bench b = open_bench(N);
    luck = 77;
    random_row(row, N, 1.5f);
    set = (naive_set){.t = toks};
    naive_truncate(&set, row, N, spec, 1);
    for (int i = 0; i < set.n; i++)
        sum += p[set.t[i].id] = exp((set.t[i].logit - set.t[0].logit) / spec->temperature);
    for (int i = 0; i < N; i++) p[i] /= sum;
    for (int i = 0; i < N_DRAWS; i++) {
        const qh_draw d = {.spec = spec,
                           .logits = row,
                           .history = {history, by_position ? i % 4000 : 5, 0},
                           .seed = by_position ? (uint64_t)(i / 4000) : (uint64_t)i,
                           .choice = by_position ? 1 : 0};
        CHECK_OK(qh_sampler_draw(b.sampler, &d, &id, NULL));
        CHECK(p[id] > 0);
        hits[id]++;
    }
    double x = chi_square(hits, p, N, N_DRAWS, &n_cells), df = n_cells - 1;
    CHECK(x < df + 4 * sqrt(2 * df) + 10);             /* far beyond the 99.99th percentile */
    close_bench(&b);
}

TEST(draws_follow_the_distribution_over_seeds_and_over_positions)
{
    qh_sampling s = none();
    check_distribution(&s, false);
    check_distribution(&s, true);
    s.temperature = 0.5f;
    check_distribution(&s, true);
    s.temperature = 2;
    check_distribution(&s, false);
    s.temperature = 0.8f, s.top_k = 12;
    check_distribution(&s, true);
    s.top_k = 0, s.top_p = 0.7f;
    check_distribution(&s, true);
    s.top_p = 1, s.min_p = 0.05f;
    check_distribution(&s, false);
}

TEST(xtc_strikes_as_often_as_asked)
{
    enum { N = 64, N_DRAWS = 4000 };
    float row[N];
    qh_token id, history[N_DRAWS] = {0};
    int n_best = 0;
    bench b = open_bench(N);
    for (int i = 0; i < N; i++) row[i] = i < 2 ? 10 : -10;
    qh_sampling s = none();
    s.temperature = 0, s.xtc_probability = 0.3f, s.xtc_threshold = 0.1f;
    for (int i = 0; i < N_DRAWS; i++) {
        const qh_draw d = {.spec = &s, .logits = row, .history = {history, i, 0}, .seed = 3};
        CHECK_OK(qh_sampler_draw(b.sampler, &d, &id, NULL));
        CHECK(id < 2);
        n_best += id == 0;              /* struck: the less preferred of two equals, id 1, is left */
    }
    CHECK(abs(n_best - (int)(0.7 * N_DRAWS)) < 150);
    close_bench(&b);
}

TEST(logprobs_are_those_of_the_softmax_and_the_best_come_first)
{
    static float row[MAX_VOCAB];
    bench b = open_bench(MAX_VOCAB);
    for (int run = 0; run < 200; run++) {
        luck = (uint64_t)run << 20 | 1u << 24;
        random_row(row, b.n, 2);
        double max = -INFINITY, sum = 0;
        for (int i = 0; i < b.n; i++) max = fmax(max, row[i]);
        for (int i = 0; i < b.n; i++) sum += exp(row[i] - max);
        qh_token id = between(0, b.n - 1), top[QH_MAX_TOP_LOGPROBS];
        float logprob, top_logprobs[QH_MAX_TOP_LOGPROBS];
        int n_top = between(0, QH_MAX_TOP_LOGPROBS), n;
        CHECK_OK(
            qh_sampler_logprobs(b.sampler, row, &id, 1, &logprob, n_top, top, top_logprobs, &n, NULL));
        CHECK_INT(n, n_top);
        CHECK(fabs(logprob - (row[id] - max - log(sum))) < 1e-5);
        for (int i = 0; i < n; i++) {
            int n_better = 0;
            for (int k = 0; k < b.n; k++)
                n_better += row[k] > row[top[i]] || (row[k] == row[top[i]] && k < top[i]);
            CHECK_INT(n_better, i);
            CHECK(fabs(top_logprobs[i] - (row[top[i]] - max - log(sum))) < 1e-5);
        }
    }
    close_bench(&b);
}

/* Ranges -----------------------------------------------------------------------------------------*/

TEST(settings_out_of_range_are_refused_by_name)
{
    qh_sampling s;
    qh_sampling_init(&s);
    CHECK_OK(qh_sampling_check(&s, 100, NULL));
    struct {
        float *field;
        float bad;
        const char *name;
    } cases[] = {
        {&s.temperature, -0.1f, "temperature"},
        {&s.temperature, NAN, "temperature"},
        {&s.top_p, 1.5f, "top_p"},
        {&s.min_p, -1, "min_p"},
        {&s.typical_p, 2, "typical_p"},
        {&s.xtc_probability, 1.1f, "xtc_probability"},
        {&s.xtc_threshold, -0.1f, "xtc_threshold"},
        {&s.repeat_penalty, 0, "repeat_penalty"},
        {&s.presence_penalty, 2.1f, "presence_penalty"},
        {&s.frequency_penalty, -3, "frequency_penalty"},
        {&s.dry_multiplier, -1, "dry_multiplier"},
        {&s.dry_base, 0.5f, "dry_base"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float good = *cases[i].field;
        qh_err err = {0};
        *cases[i].field = cases[i].bad;
        CHECK_STATUS(qh_sampling_check(&s, 100, &err), QH_EINVAL);
        CHECK(strstr(err.msg, cases[i].name) == err.msg);
        *cases[i].field = good;
    }
    qh_logit_bias bias = {100, 1};
    s.bias = &bias, s.n_bias = 1;
    CHECK_STATUS(qh_sampling_check(&s, 100, NULL), QH_EINVAL);
    bias = (qh_logit_bias){5, NAN};
    CHECK_STATUS(qh_sampling_check(&s, 100, NULL), QH_EINVAL);
    bias = (qh_logit_bias){5, -INFINITY};
    CHECK_OK(qh_sampling_check(&s, 100, NULL));
    s.bias = NULL, s.n_bias = 0;
    char *breakers = s.dry_breakers[0];
    s.dry_breakers[0] = (char *)"";
    CHECK_STATUS(qh_sampling_check(&s, 100, NULL), QH_EINVAL);
    s.dry_breakers[0] = breakers;
    qh_sampling_deinit(&s);
}
TEST_MAIN()
