/* The engine through its mailboxes: one loop thread (the test), one engine thread. */
#include "test.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "fake_backend.h"
#include "fake_vocab.h"

enum { N_VOCAB = 64, EOS = N_VOCAB - 1 };

typedef struct {
    qh_vocab *vocab;
    fake_backend fake;
    qh_engine *engine;
} fixture;

static void open_engine(fixture *f, qh_engine_config cfg, fake_config fc)
{
    qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = 4096};
    qh_err err = {0};
    f->vocab = fake_vocab(N_VOCAB);
    fc.vocab = f->vocab;
    fc.n_vocab = N_VOCAB;
    if (!fc.limits.n_pages) fc.limits = (qh_backend_limits){64, 64, 8, 16, 4096};
    fake_open(&f->fake, &fc);
    qh_status st = qh_engine_new(&f->engine, &f->fake.base, &desc, NULL, &cfg, &err);
    if (st) print_error("%s\n", err.msg);
    CHECK_OK(st);
}

static void close_engine(fixture *f)
{
    qh_engine_free(f->engine);
    CHECK(f->fake.is_closed);
    fake_deinit(&f->fake);
    qh_vocab_free(f->vocab);
}

static qh_gen *gen_of(const qh_token *prompt, int n, int max_tokens)
{
    qh_gen *g = qh_gen_new();
    CHECK_OK(qh_tokens_append(&g->prompt, prompt, n));
    g->max_tokens = max_tokens;
    return g;
}

/* Poll until an event comes. */
static qh_event next_event(fixture *f)
{
    qh_event e;
    while (qh_engine_poll(f->engine, &e)) qh_sleep_us(100);
    return e;
}

static void slow_greedy(qh_token *tokens, int *n, int max_tokens)
{
    float logits[N_VOCAB];
    for (int i = 0; i < max_tokens; i++) {
        fake_logits(tokens, *n, N_VOCAB, EOS, logits);
        int best = 0;
        for (int id = 1; id < N_VOCAB; id++) best = logits[id] > logits[best] ? id : best;
        tokens[(*n)++] = best;
        if (best == EOS) return;
    }
}

TEST(a_greedy_generation_comes_back_as_text_and_tokens_then_done)
{
    fixture f;
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = EOS});
    qh_token tokens[200] = {1, 2, 3};
    int n = 3, at = 3;
    slow_greedy(tokens, &n, 40);
    qh_gen *g = gen_of(tokens, 3, 40);
    g->sampling.temperature = 0;
    qh_job_id id;
    CHECK_OK(qh_engine_submit(f.engine, g, &id, NULL));
    for (;;) {
        qh_event e = next_event(&f);
        CHECK(e.job == id && e.choice == 0);
        for (int i = 0; i < e.n_tokens; i++) CHECK_INT(e.tokens[i].id, tokens[at++]);
        bool is_done = e.type == QH_EVENT_DONE;
        if (is_done) {
            CHECK_INT(e.finish, tokens[n - 1] == EOS ? QH_FINISH_STOP : QH_FINISH_LENGTH);
            CHECK_INT(e.usage.n_prompt, 3);
            CHECK_INT(e.usage.n_completion, n - 3);
        }
        qh_event_deinit(&e);
        if (is_done) break;
    }
    CHECK_INT(at, n);
    close_engine(&f);
}

TEST(freeing_an_engine_at_work_leaks_nothing)
{
    fixture f;
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = QH_NO_TOKEN});
    for (int i = 0; i < 20; i++) {
        qh_job_id id;
        CHECK_OK(qh_engine_submit(f.engine, gen_of((qh_token[]){i, 5}, 2, 2000), &id, NULL));
    }
    qh_sleep_us(2000);
    close_engine(&f);
}
TEST_MAIN()
