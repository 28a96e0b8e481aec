/* slow_model.c - see slow_model.h */
#include "slow_model.h"
#include "base/mem.h"
#include "fake_backend.h"
#include "text/detok.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static float logprob_of(const float *logits, int n, qh_token id)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < n; i++) sum += exp(logits[i] - max);
    return (float)(logits[id] - max - log(sum));
}

/* The stop string that ends first at or after from; of those that end together the longest. */
static int find_stop(const qh_gen *g, const qh_str *text, size_t from, size_t *end_at)
{
    for (size_t end = from + 1; end <= text->len; end++) {
        int best = -1;
        size_t best_len = 0;
        for (int i = 0; i < g->n_stop_strings; i++) {
            size_t len = strlen(g->stop_strings[i]);
            if (len > best_len && end >= from + len &&
                !memcmp(text->data + end - len, g->stop_strings[i], len))
                best = i, best_len = len;
        }
        if (best >= 0) {
            *end_at = end;
            return best;
        }
    }
    return -1;
}

static bool is_stop_token(const slow_model *m, const qh_gen *g, qh_token id)
{
    for (int i = 0; i < g->n_stop_tokens; i++)
        if (g->stop_tokens[i] == id) return true;
    return !g->ignore_eos && qh_vocab_is_stop(m->vocab, id);
}

static qh_token draw(const slow_model *m, qh_sampler *s, const qh_gen *g, int choice,
                     const qh_tokens *all, const float *logits)
{
    qh_token banned[64], id;
    int n_banned = 0;
    for (int i = 0; all->len - g->prompt.len < g->min_tokens && i < m->n_vocab; i++)
        if (is_stop_token(m, g, i)) banned[n_banned++] = i;
    const qh_draw d = {
        .spec = &g->sampling,
        .logits = logits,
        .history = {all->ids, all->len, g->prompt.len},
        .seed = g->sampling.seed,
        .choice = (uint32_t)choice,
        .banned = banned,
        .n_banned = n_banned,
    };
    if (qh_sampler_draw(s, &d, &id, NULL)) abort();
    return id;
}

void slow_run(const slow_model *m, const qh_gen *g, int choice, slow_result *out)
{
    qh_sampler *s;
    qh_tokens all = {0};
    qh_detok detok;
    float *logits = qh_alloc0(sizeof *logits * (size_t)m->n_vocab);
    size_t searched_from = 0, end_at = 0;
    *out = (slow_result){.stop_match = -1};
    if (qh_sampler_new(&s, m->vocab, m->n_vocab, m->max_context, NULL)) abort();
    qh_detok_init(&detok, m->vocab, false);
    qh_tokens_append(&all, g->prompt.ids, g->prompt.len);
    out->prompt_logprobs = qh_alloc0(sizeof(float) * (size_t)g->prompt.len);
    for (int i = 1; g->prompt_logprobs && i < g->prompt.len; i++) {
        fake_logits(all.ids, i, m->n_vocab, m->fake_eos, logits);
        out->prompt_logprobs[i - 1] = logprob_of(logits, m->n_vocab, all.ids[i]);
    }
    out->logprobs = qh_alloc0(sizeof(float) * (size_t)m->max_context);
    while (out->finish == QH_FINISH_NONE) {
        fake_logits(all.ids, all.len, m->n_vocab, m->fake_eos, logits);
        qh_token id = draw(m, s, g, choice, &all, logits);
        out->logprobs[out->tokens.len] = logprob_of(logits, m->n_vocab, id);
        qh_tokens_append(&out->tokens, &id, 1);
        qh_tokens_append(&all, &id, 1);
        bool stops = is_stop_token(m, g, id),
             is_full = out->tokens.len == g->max_tokens || all.len == m->max_context;
        if (!stops) qh_detok_push(&detok, id, &out->text);
        if (stops || is_full) {
            qh_detok_finish(&detok, &out->text);
            out->finish = stops ? QH_FINISH_STOP : QH_FINISH_LENGTH;
        }
        if (out->tokens.len <= g->min_tokens) searched_from = out->text.len;
        else out->stop_match = find_stop(g, &out->text, searched_from, &end_at);
        if (out->stop_match >= 0) out->finish = QH_FINISH_STOP;
    }
    if (out->stop_match >= 0) {
        out->text.len =
            end_at - (g->keep_stop_string ? 0 : strlen(g->stop_strings[out->stop_match]));
    }
    qh_free(logits);
    qh_tokens_deinit(&all);
    qh_sampler_free(s);
}

void slow_result_deinit(slow_result *r)
{
    qh_tokens_deinit(&r->tokens);
    qh_free(r->logprobs);
    qh_free(r->prompt_logprobs);
    qh_str_deinit(&r->text);
}
