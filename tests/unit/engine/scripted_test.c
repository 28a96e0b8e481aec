/* The scripted backend under the real engine: prompts come back as its callback says. */
#include "test.h"
#include "base/mem.h"
#include "base/log.h"
#include "engine/engine.h"
#include "scripted/scripted.h"

typedef struct {
    const char *reply;
    bool is_closed, fails;
    int n_asked;
} story;

/* Says reply after the last newline of the prefix, then <|im_end|>. */
static qh_status tell_story(void *arg, const qh_token *tokens, int n, qh_scripted_next *out,
                            qh_err *err)
{
    story *s = arg;
    s->n_asked++;
    if (s->fails) return qh_fail(err, QH_ESCRIPT, "this story fails");
    int said = 0;
    while (said < n && tokens[n - 1 - said] != '\n') said++;
    out->n = 1;
    out->ids[0] = said < (int)strlen(s->reply) ? (unsigned char)s->reply[said] : QH_SCRIPTED_IM_END;
    out->weights[0] = 1;
    return QH_OK;
}

static void close_story(void *arg) { ((story *)arg)->is_closed = true; }

static qh_engine *engine_for(story *s, double rate, double prefill_rate, const qh_vocab **vocab)
{
    const qh_backend_limits lim = {64, 64, 8, 8, 2048};
    const qh_script script = {tell_story, close_story, s, rate, prefill_rate};
    qh_backend *be;
    qh_engine *e;
    qh_desc desc;
    qh_err err = {0};
    CHECK_OK(qh_scripted_open(&be, &script, &lim, &err));
    *vocab = be->ops->caps(be)->vocab;
    qh_scripted_desc(&desc, 2048);
    CHECK_OK(qh_engine_new(&e, be, &desc, NULL, &(qh_engine_config){0}, &err));
    return e;
}

static qh_gen *gen_from(const qh_vocab *v, const char *prompt)
{
    qh_tokenizer *t;
    CHECK_OK(qh_tokenizer_new(&t, v, NULL));
    qh_gen *g = qh_gen_new();
    CHECK_OK(
        qh_tokenizer_encode(t, prompt, strlen(prompt), QH_ENCODE_PARSE_SPECIAL, &g->prompt, NULL));
    qh_tokenizer_free(t);
    return g;
}

/* The job's text; *finish and *status as told. */
static void collect(qh_engine *e, qh_str *text, qh_finish *finish, qh_status *status)
{
    qh_event ev;
    for (bool is_done = false; !is_done; qh_event_deinit(&ev)) {
        while (qh_engine_poll(e, &ev)) qh_sleep_us(100);
        if (ev.type == QH_EVENT_TEXT) qh_str_append(text, ev.text, ev.text_len);
        is_done = ev.type == QH_EVENT_DONE;
        if (is_done) *finish = ev.finish, *status = ev.status;
    }
}

static void generate(story *s, double rate, double prefill_rate, const char *prompt, qh_str *text,
                     qh_finish *finish, qh_status *status)
{
    const qh_vocab *vocab;
    qh_engine *e = engine_for(s, rate, prefill_rate, &vocab);
    qh_job_id id;
    CHECK_OK(qh_engine_submit(e, gen_from(vocab, prompt), &id, NULL));
    collect(e, text, finish, status);
    qh_engine_free(e);
    CHECK(s->is_closed);
}

TEST(a_script_is_told_byte_by_byte_and_ends_with_its_stop_token)
{
    story s = {.reply = "na\xc3\xafve \xe2\x82\xac, ok"};
    qh_str text = {0};
    qh_finish finish;
    qh_status status;
    generate(&s, 0, 0, "<|im_start|>user\n", &text, &finish, &status);
    CHECK_STR(qh_str_z(&text), s.reply);
    CHECK_INT(finish, QH_FINISH_STOP);
    CHECK_INT(s.n_asked, strlen(s.reply) + 1);
    qh_str_deinit(&text);
}

TEST(a_script_that_fails_fails_its_request_and_not_the_engine)
{
    story s = {.reply = "x", .fails = true};
    qh_str text = {0};
    qh_finish finish;
    qh_status status;
    qh_log_set_level(QH_LOG_OFF);
    generate(&s, 0, 0, "hello\n", &text, &finish, &status);
    CHECK_INT(finish, QH_FINISH_ERROR);
    CHECK_INT(status, QH_EFORMAT);
    qh_str_deinit(&text);
}

TEST(a_rate_paces_the_tokens)
{
    story s = {.reply = "0123456789"};
    qh_str text = {0};
    qh_finish finish;
    qh_status status;
    int64_t begin = qh_now_us();
    generate(&s, 200, 0, "go\n", &text, &finish, &status);
    CHECK(qh_now_us() - begin >= 11 * 5000);
    qh_str_deinit(&text);
}

TEST(a_prefill_rate_delays_the_first_token)
{
    story s = {.reply = "."};
    qh_str text = {0};
    qh_finish finish;
    qh_status status;
    int64_t begin = qh_now_us();
    generate(&s, 0, 1000, "twenty bytes, a line\n", &text, &finish, &status);
    CHECK(qh_now_us() - begin >= 20000);
    qh_str_deinit(&text);
}

TEST(a_step_over_the_limits_is_refused)
{
    story s = {.reply = ""};
    const qh_backend_limits lim = {2, 2, 1, 1, 2};
    qh_backend *be;
    qh_err err = {0};
    CHECK_OK(qh_scripted_open(&be, &(qh_script){tell_story, NULL, &s, 0, 0}, &lim, NULL));
    const qh_token tokens[3] = {1, 2, 3};
    const qh_page pages[1] = {0};
    const qh_step_seq seq = {0, 3, 0, pages};
    CHECK_STATUS(be->ops->submit(be, &(qh_step){3, 1, 0, tokens, &seq, NULL}, &err), QH_EINVAL);
    qh_backend_close(be);
    qh_backend *none;
    CHECK_STATUS(qh_scripted_open(&none, &(qh_script){tell_story, NULL, &s, 0, 0},
                                  &(qh_backend_limits){0}, &err),
                 QH_EINVAL);
}
TEST_MAIN()
