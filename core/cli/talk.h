/* talk.h - one generation at the terminal: submit, stream to stdout, interrupt. */
#pragma once
#include "base/str.h"
#include "host/loaded.h"

typedef struct {
    int max_tokens;                 /* 0: up to the context */
    double temperature, top_p, min_p, repeat_penalty;
    int top_k, seed;                /* seed < 0: drawn */
} qh_talk_options;

typedef struct {
    qh_str text;                    /* what the model said */
    qh_finish finish;
    qh_usage usage;
} qh_talk_result;

/* Generate from prompt (its ids are taken over) and write the text to stdout as it comes. Ctrl-C ends
 * the generation, not the program: finish is then QH_FINISH_CANCELED. */
qh_status qh_talk(qh_loaded *l, int event_fd, qh_tokens *prompt, const qh_talk_options *opt, qh_talk_result *out,
                  qh_err *err);
void qh_talk_result_deinit(qh_talk_result *r);
