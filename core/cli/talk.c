/* talk.c - see talk.h */
#include "cli/talk.h"
#include "base/thread.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t was_interrupted;
static void on_interrupt(int signo) { (void)signo, was_interrupted = 1; }

static qh_gen *new_gen(qh_tokens *prompt, const qh_talk_options *opt)
{
    qh_gen *g = qh_gen_new();
    g->prompt = *prompt;
    *prompt = (qh_tokens){0};
    g->max_tokens = opt->max_tokens;
    g->sampling.temperature = (float)opt->temperature;
    g->sampling.top_p = (float)opt->top_p;
    g->sampling.min_p = (float)opt->min_p;
    g->sampling.repeat_penalty = (float)opt->repeat_penalty;
    g->sampling.top_k = opt->top_k;
    g->sampling.has_seed = opt->seed >= 0;
    g->sampling.seed = opt->seed >= 0 ? (uint64_t)opt->seed : 0;
    return g;
}

static void wait_for_events(int event_fd)
{
    struct pollfd p = {event_fd, POLLIN, 0};
    if (poll(&p, 1, -1) > 0) qh_eventfd_drain(event_fd);
}

/* True at the end of the generation. */
static bool take_event(qh_event *e, qh_talk_result *out, qh_status *st, qh_err *err)
{
    if (e->text_len) {
        fwrite(e->text, 1, e->text_len, stdout);
        fflush(stdout);
        qh_str_append(&out->text, e->text, e->text_len);
    }
    if (e->type != QH_EVENT_DONE) return false;
    out->finish = e->finish;
    out->usage = e->usage;
    if (e->finish == QH_FINISH_ERROR) *st = qh_fail(err, e->status, "%s", e->message ? e->message : "the engine failed");
    return true;
}

static qh_status follow(qh_engine *engine, int event_fd, qh_job_id id, qh_talk_result *out, qh_err *err)
{
    qh_status st = QH_OK;
    bool is_done = false;
    while (!is_done) {
        qh_event e;
        if (was_interrupted) qh_engine_cancel(engine, id);
        while (!is_done && qh_engine_poll(engine, &e) == QH_OK) {
            is_done = take_event(&e, out, &st, err);
            qh_event_deinit(&e);
        }
        if (!is_done) wait_for_events(event_fd);
    }
    return st;
}

qh_status qh_talk(qh_loaded *l, int event_fd, qh_tokens *prompt, const qh_talk_options *opt, qh_talk_result *out,
                  qh_err *err)
{
    *out = (qh_talk_result){0};
    qh_gen *g = new_gen(prompt, opt);
    qh_job_id id;
    qh_status st = qh_engine_submit(l->engine, g, &id, err);
    if (st) {
        qh_gen_free(g);
        return st;
    }
    struct sigaction act = {.sa_handler = on_interrupt}, old;
    was_interrupted = 0;
    sigaction(SIGINT, &act, &old);
    st = follow(l->engine, event_fd, id, out, err);
    sigaction(SIGINT, &old, NULL);
    return st;
}

void qh_talk_result_deinit(qh_talk_result *r) { qh_str_deinit(&r->text); }
