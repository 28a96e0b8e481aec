/* slow_model.h - what a choice must give, computed alone: one token after the other from the whole prefix,
 * text detokenized at once, stop strings searched by brute force. Uses the engine's sampler for the draw
 * (sampler_test has its own oracle) and nothing else of it. */
#pragma once
#include "engine/engine.h"
#include "engine/sampler.h"

typedef struct {
    qh_tokens tokens;               /* completion, a stop token included */
    float *logprobs;                /* [tokens.len] */
    float *prompt_logprobs;         /* [n_prompt - 1] */
    qh_str text;
    qh_finish finish;
    int stop_match;                 /* or -1 */
} slow_result;

typedef struct {
    const qh_vocab *vocab;
    int n_vocab, max_context;
    qh_token fake_eos;              /* as the fake backend was opened */
} slow_model;

void slow_run(const slow_model *m, const qh_gen *g, int choice, slow_result *out);
void slow_result_deinit(slow_result *r);
