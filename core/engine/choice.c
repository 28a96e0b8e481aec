/* choice.c - see choice.h */
#include "engine/choice.h"
#include "base/mem.h"
#include "base/rng.h"
#include <math.h>
#include <string.h>

enum { MAX_UNTOLD_INFOS = 4096 };

/* Job --------------------------------------------------------------------------------------------*/

static void list_banned(qh_job *j, const qh_gen_env *env)
{
    const qh_gen *g = j->gen;
    if (g->min_tokens == 0) return;
    int n_eos = g->ignore_eos ? 0 : env->n_eos;
    j->banned = qh_alloc0(sizeof *j->banned * (size_t)(n_eos + g->n_stop_tokens));
    for (int i = 0; i < n_eos; i++) j->banned[j->n_banned++] = env->eos[i];
    for (int i = 0; i < g->n_stop_tokens; i++) j->banned[j->n_banned++] = g->stop_tokens[i];
}

static int longest(const qh_gen *g, int n_prompt, const qh_gen_env *env)
{
    int room = env->max_context - n_prompt;
    return n_prompt + (g->max_tokens > 0 && g->max_tokens < room ? g->max_tokens : room);
}

static qh_status prepare(qh_job *j, qh_gen_env *env)
{
    qh_gen *g = j->gen;
    qh_status st = qh_stop_set_init(&j->stops, (const char *const *)g->stop_strings,
                                    g->n_stop_strings, g->keep_stop_string);
    for (int i = 0; !st && i < j->n_choices; i++)
        st = qh_stopper_init(&j->choices[i].stopper, &j->stops);
    if (!st)
        st = qh_seq_new(&j->choices[0].seq, env->pool, g->cache_salt, longest(g, j->n_prompt, env));
    if (st) return st;
    j->choices[0].seq->tokens = g->prompt;
    g->prompt = (qh_tokens){0};
    return QH_OK;
}

qh_job *qh_job_new(qh_job_id id, qh_gen *gen, _Atomic unsigned *flags, qh_gen_env *env,
                   int64_t submitted_us)
{
    qh_job *j = qh_new0(qh_job);
    j->id = id;
    j->gen = gen;
    j->flags = flags;
    j->seed = gen->sampling.has_seed ? gen->sampling.seed : qh_rng_entropy();
    j->n_prompt = gen->prompt.len;
    j->submitted_us = submitted_us;
    j->admitted_us = -1;
    j->n_choices = gen->n_choices;
    j->choices = qh_alloc0(sizeof *j->choices * (size_t)j->n_choices);
    for (int i = 0; i < j->n_choices; i++) {
        qh_choice *c = &j->choices[i];
        *c = (qh_choice){.job = j, .index = i, .stop_match = -1, .paused_us = -1, .first_token_us = -1};
        qh_detok_init(&c->detok, env->vocab, false);
        c->detok.shown = gen->shown_tokens;
        c->detok.n_shown = gen->n_shown_tokens;
    }
    list_banned(j, env);
    qh_status st = prepare(j, env);
    for (int i = 0; st && i < j->n_choices; i++)
        qh_choice_finish(&j->choices[i], env, QH_FINISH_ERROR, st, "no memory for the request",
                         submitted_us);
    return j;
}

static void free_infos(qh_info_list *l)
{
    for (int i = 0; i < l->n; i++) qh_free(l->v[i].top);
    qh_free(l->v);
}

void qh_job_free(qh_job *j)
{
    if (!j) return;
    for (int i = 0; i < j->n_choices; i++) {
        qh_choice *c = &j->choices[i];
        qh_seq_free(c->seq);
        qh_stopper_deinit(&c->stopper);
        qh_turn_free(c->turn);
        qh_str_deinit(&c->text);
        free_infos(&c->prompt_infos);
        free_infos(&c->infos);
        qh_free(c->message);
        qh_free(c->reason);
    }
    qh_stop_set_deinit(&j->stops);
    qh_free(j->banned);
    qh_free(j->choices);
    qh_gen_free(j->gen);
    qh_free(j);
}

bool qh_job_is_told(const qh_job *j)
{
    for (int i = 0; i < j->n_choices; i++)
        if (!j->choices[i].is_told) return false;
    return true;
}

void qh_job_fork(qh_job *j, qh_gen_env *env, int64_t now_us)
{
    j->has_forked = true;
    for (int i = 1; i < j->n_choices; i++) {
        qh_choice *c = &j->choices[i];
        if (c->state == QH_CHOICE_FINISHED) continue;
        qh_status st = qh_seq_fork(&c->seq, j->choices[0].seq);
        if (st)
            qh_choice_finish(c, env, QH_FINISH_ERROR, st, "no memory to fork the sequence", now_us);
        else c->state = QH_CHOICE_RUNNING;
    }
}

/* Tokens -----------------------------------------------------------------------------------------*/

static void append_info(qh_info_list *list, qh_token_info *t, const qh_token *top_ids,
                        const float *top_logprobs)
{
    if (t->n_top) t->top = qh_alloc0(sizeof *t->top * (size_t)t->n_top);
    for (int i = 0; i < t->n_top; i++)
        t->top[i].id = top_ids[i], t->top[i].logprob = top_logprobs[i];
    if (list->n == list->cap) {
        list->cap = list->cap ? 2 * list->cap : 4;
        list->v = qh_realloc(list->v, sizeof *list->v * (size_t)list->cap);
    }
    list->v[list->n++] = *t;
}

/* Log-probabilities as asked, appended to list. */
static qh_status add_info(qh_choice *c, qh_gen_env *env, qh_info_list *list, qh_token id,
                          const float *logits, bool wants_logprob, qh_err *err)
{
    qh_token ids[QH_MAX_TOP_LOGPROBS];
    float logprobs[QH_MAX_TOP_LOGPROBS];
    qh_token_info t = {.id = id, .logprob = NAN};
    int n_top = c->job->gen->top_logprobs;
    if (wants_logprob || n_top > 0) {
        qh_status st = qh_sampler_logprobs(env->sampler, logits, &id, 1, &t.logprob, n_top, ids,
                                           logprobs, &t.n_top, err);
        if (st) return st;
    }
    append_info(list, &t, ids, logprobs);
    return QH_OK;
}

qh_status qh_choice_score_prompt(qh_choice *c, qh_gen_env *env, int p, const float *logits,
                                 qh_err *err)
{
    qh_job *j = c->job;
    if (p < j->n_scored || p + 1 >= j->n_prompt) return QH_OK;
    j->n_scored = p + 1;
    return add_info(c, env, &c->prompt_infos, c->seq->tokens.ids[p + 1], logits, true, err);
}

static bool is_stop_token(const qh_choice *c, const qh_gen_env *env, qh_token id)
{
    const qh_gen *g = c->job->gen;
    for (int i = 0; i < g->n_stop_tokens; i++)
        if (g->stop_tokens[i] == id) return true;
    return !g->ignore_eos && qh_vocab_is_stop(env->vocab, id);
}

/* Text past the stop strings into c->text; true when one of them matched. The text of the first
 * min_tokens tokens is not searched. */
static bool add_text(qh_choice *c, const qh_str *piece)
{
    if (piece->len == 0) return false;
    if (c->n_completion <= c->job->gen->min_tokens) {
        qh_str_append(&c->text, piece->data, piece->len);
        return false;
    }
    c->stop_match = qh_stopper_push(&c->stopper, piece->data, piece->len, &c->text);
    return c->stop_match >= 0;
}

static void finish_by_policy(qh_choice *c, qh_gen_env *env, const char *reason,
                             const char *message, int64_t now_us)
{
    if (c->state != QH_CHOICE_FINISHED && *reason) c->reason = qh_strdup(reason);
    qh_choice_finish(c, env, *reason ? QH_FINISH_POLICY : QH_FINISH_STOP, QH_OK, message, now_us);
}

/* stop_reason: the policy wants this token to be the last; NULL: it does not. What stops a text by
 * itself goes before that, and that before max_tokens. */
static void accept(qh_choice *c, qh_gen_env *env, qh_token id, const char *stop_reason,
                   int64_t now_us)
{
    const qh_gen *g = c->job->gen;
    c->n_completion++;
    if (is_stop_token(c, env, id)) {
        qh_choice_finish(c, env, QH_FINISH_STOP, QH_OK, NULL, now_us);
        return;
    }
    qh_str_clear(&env->piece);
    qh_detok_push(&c->detok, id, &env->piece);
    qh_status st = QH_OK;
    if (add_text(c, &env->piece)) {
        qh_choice_finish(c, env, QH_FINISH_STOP, QH_OK, NULL, now_us);
    } else if ((st = qh_seq_append(c->seq, &id, 1)) == QH_ENOMEM) {
        qh_choice_finish(c, env, QH_FINISH_ERROR, st, "no memory for another token", now_us);
    } else if (stop_reason) {
        finish_by_policy(c, env, stop_reason, NULL, now_us);
    } else if (c->n_completion == g->max_tokens || c->seq->tokens.len == c->seq->max_tokens) {
        qh_choice_finish(c, env, QH_FINISH_LENGTH, QH_OK, NULL, now_us);
    }
}

/* The token whose info is the last in the list has been taken in. */
static void note_text_end(qh_choice *c)
{
    c->infos.v[c->infos.n - 1].text_end = c->n_text_told + (int64_t)c->text.len;
}

static qh_draw draw_of(const qh_choice *c, const float *logits)
{
    const qh_job *j = c->job;
    return (qh_draw){
        .spec = &j->gen->sampling, .logits = logits, .seed = j->seed, .choice = (uint32_t)c->index,
        .history = {c->seq->tokens.ids, c->seq->tokens.len, j->n_prompt},
        .banned = j->banned, .n_banned = c->n_completion < j->gen->min_tokens ? j->n_banned : 0,
    };
}

/* The row of logits is gone when the answer comes, so all that may be told of it is computed now. */
static qh_status note_logprobs(qh_turn *t, qh_gen_env *env, const float *logits, int n_top,
                               qh_err *err)
{
    if (!t->logprobs) return QH_OK;
    for (int i = 0; i < t->n; i++) t->ids[i] = t->cands[i].id;
    return qh_sampler_logprobs(env->sampler, logits, t->ids, t->n, t->logprobs, n_top, t->top_ids,
                               t->top_logprobs, &t->n_top, err);
}

static qh_status make_up_turn(qh_choice *c, qh_gen_env *env, const float *logits, qh_err *err)
{
    const qh_gen *g = c->job->gen;
    if (!c->turn)
        c->turn = qh_turn_new(g->policy, g->logprobs || g->top_logprobs > 0, g->top_logprobs);
    qh_turn *t = c->turn;
    if (!t) return qh_fail(err, QH_ENOMEM, "no memory for the policy's candidates");
    const qh_draw draw = draw_of(c, logits);
    t->choice = c;
    t->vocab = env->vocab;
    t->noise = (qh_noise){draw.seed, draw.choice, (uint32_t)draw.history.n_tokens};
    t->temperature = g->sampling.temperature;
    t->n_out = c->n_completion;
    t->n_prompt = c->job->n_prompt;
    t->max_tokens = c->seq->max_tokens - c->job->n_prompt;
    qh_status st = qh_sampler_candidates(env->sampler, &draw, g->policy->top, t->cands, &t->n,
                                         &t->max, err);
    t->n_asked = t->n;
    return st ? st : note_logprobs(t, env, logits, g->top_logprobs, err);
}

static void ask_policy(qh_choice *c, qh_gen_env *env, const float *logits, int64_t now_us)
{
    qh_err err = {0};
    qh_status st = make_up_turn(c, env, logits, &err);
    if (st) qh_choice_finish(c, env, QH_FINISH_ERROR, st, err.msg, now_us);
    else c->place = QH_TURN_UNSENT;
}

void qh_choice_draw(qh_choice *c, qh_gen_env *env, const float *logits, int64_t now_us)
{
    if (c->job->gen->policy) {
        ask_policy(c, env, logits, now_us);
        return;
    }
    qh_err err = {0};
    qh_token id;
    const qh_draw draw = draw_of(c, logits);
    if (c->first_token_us < 0) c->first_token_us = now_us;
    qh_status st = qh_sampler_draw(env->sampler, &draw, &id, &err);
    if (!st) st = add_info(c, env, &c->infos, id, logits, c->job->gen->logprobs, &err);
    if (st) {
        qh_choice_finish(c, env, QH_FINISH_ERROR, st, err.msg, now_us);
        return;
    }
    accept(c, env, id, NULL, now_us);
    note_text_end(c);
}

static float logprob_of(const qh_turn *t, qh_token id)
{
    for (int i = 0; t->logprobs && i < t->n_asked; i++)
        if (t->ids[i] == id) return t->logprobs[i];
    return NAN;
}

void qh_choice_take_turn(qh_choice *c, qh_gen_env *env, int64_t now_us)
{
    qh_turn *t = c->turn;
    c->place = QH_TURN_HOME;
    if (t->verdict == QH_TURN_FAILED || t->verdict == QH_TURN_TIMED_OUT) {
        finish_by_policy(c, env,
                         t->verdict == QH_TURN_FAILED ? "policy_error" : "policy_timeout",
                         t->message, now_us);
        return;
    }
    qh_token_info info = {
        .id = t->token, .logprob = logprob_of(t, t->token), .n_top = t->n_top};
    if (c->first_token_us < 0) c->first_token_us = now_us;
    append_info(&c->infos, &info, t->top_ids, t->top_logprobs);
    accept(c, env, t->token, t->verdict == QH_TURN_STOP ? t->reason : NULL, now_us);
    note_text_end(c);
}

/* End and events ---------------------------------------------------------------------------------*/

/* The end of a cut character may still complete a stop string, which then is what ended the text. */
static void release_text(qh_choice *c, qh_gen_env *env)
{
    qh_str_clear(&env->piece);
    qh_detok_finish(&c->detok, &env->piece);
    if (!add_text(c, &env->piece)) qh_stopper_finish(&c->stopper, &c->text);
    else if (c->finish == QH_FINISH_LENGTH) c->finish = QH_FINISH_STOP;
}

void qh_choice_finish(qh_choice *c, qh_gen_env *env, qh_finish finish, qh_status st,
                      const char *message, int64_t now_us)
{
    if (c->state == QH_CHOICE_FINISHED) return;
    c->state = QH_CHOICE_FINISHED;
    c->finish = finish;
    c->status = st;
    c->message = message ? qh_strdup(message) : NULL;
    c->finished_us = now_us;
    if (c->stop_match < 0 && c->seq) release_text(c, env);
    if (c->seq) qh_seq_unload(c->seq, c->has_bad_kv ? NULL : env->prefix);
    qh_seq_free(c->seq);
    c->seq = NULL;
    if (c->place == QH_TURN_OUT) c->turn->choice = NULL;    /* freed when it comes home */
    else qh_turn_free(c->turn);
    c->turn = NULL;
    c->place = QH_TURN_HOME;
}

bool qh_choice_is_full(const qh_choice *c)
{
    return c->text.len > QH_UNDELIVERED_BYTES || c->infos.n > MAX_UNTOLD_INFOS ||
           c->prompt_infos.n > MAX_UNTOLD_INFOS;
}

static void move_infos(qh_info_list *l, qh_event *out)
{
    out->tokens = l->v;
    out->n_tokens = l->n;
    *l = (qh_info_list){0};
}

static qh_usage usage_of(const qh_choice *c)
{
    const qh_job *j = c->job;
    int64_t admitted = j->admitted_us >= 0 ? j->admitted_us : c->finished_us;
    int64_t first = c->first_token_us >= 0 ? c->first_token_us : c->finished_us;
    return (qh_usage){
        .n_prompt = j->n_prompt,
        .n_cached = j->n_cached,
        .n_completion = c->n_completion,
        .queue_us = admitted - j->submitted_us,
        .prefill_us = first - admitted,
        .decode_us = c->finished_us - first,
        .first_token_us = c->first_token_us >= 0 ? first - j->submitted_us : 0,
        .n_preempted = c->n_preempted,
    };
}

static void tell_end(qh_choice *c, qh_event *out)
{
    out->type = QH_EVENT_DONE;
    out->finish = c->finish;
    out->status = c->status;
    out->message = c->message;
    out->reason = c->reason;
    c->message = c->reason = NULL;
    if (c->finish == QH_FINISH_STOP && c->stop_match >= 0)
        out->stop_match = qh_strdup(c->job->gen->stop_strings[c->stop_match]);
    out->usage = usage_of(c);
    c->is_told = true;
}

bool qh_choice_tell(qh_choice *c, qh_event *out)
{
    *out = (qh_event){.job = c->job->id, .choice = c->index};
    if (c->prompt_infos.n) {
        out->type = QH_EVENT_PROMPT;
        move_infos(&c->prompt_infos, out);
        return true;
    }
    if (c->text.len || c->infos.n) {
        out->type = QH_EVENT_TEXT;
        out->text_len = c->text.len;
        c->n_text_told += (int64_t)c->text.len;
        out->text = qh_str_steal(&c->text);
        move_infos(&c->infos, out);
        return true;
    }
    if (c->state != QH_CHOICE_FINISHED || c->is_told) return false;
    tell_end(c, out);
    return true;
}
