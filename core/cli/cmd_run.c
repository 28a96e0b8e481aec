/* cmd_run.c - qhost run: chat with a model in the terminal, or continue plain text */
#include "base/mem.h"
#include "base/log.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "cli/talk.h"
#include "host/models.h"
#include "host/rendering.h"
#include <editline/readline.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char DEFAULT_MODEL[] = "smollm2-135m";
enum { HISTORY_LINES = 1000, MAX_STDIN_BYTES = 16 << 20 };

typedef struct {
    qh_loaded loaded;
    qh_renderer *renderer;
    json_t *messages;
    qh_talk_options talk;
    int event_fd;
    bool is_raw, is_quiet;
} chat;

static void on_events(void *arg) { qh_eventfd_signal(*(int *)arg); }

static void print_rates(const chat *c, const qh_usage *u)
{
    if (c->is_quiet || !isatty(STDERR_FILENO)) return;
    int n_new = u->n_prompt - u->n_cached;
    fprintf(stderr, "[%d prompt tokens, %d cached, %.0f tok/s; %d tokens, %.1f tok/s]\n", u->n_prompt, u->n_cached,
            u->prefill_us > 0 ? n_new * 1e6 / (double)u->prefill_us : 0.0, u->n_completion,
            u->decode_us > 0 ? u->n_completion * 1e6 / (double)u->decode_us : 0.0);
}

static void add_message(chat *c, const char *role, const char *text, size_t len)
{
    json_array_append_new(c->messages, json_pack("{s:s,s:o}", "role", role, "content", json_stringn(text, len)));
}

static qh_status chat_prompt(chat *c, qh_tokens *ids, qh_err *err)
{
    json_t *vars = json_pack("{s:O,s:b}", "messages", c->messages, "add_generation_prompt", 1);
    qh_status st = qh_renderer_add_model(vars, c->loaded.model, err);
    if (!st) st = qh_renderer_encode(c->renderer, vars, qh_model_tokenizer(c->loaded.model), ids, err);
    json_decref(vars);
    return st;
}

/* Say text and stream the answer. */
static qh_status say(chat *c, const char *text, qh_err *err)
{
    qh_tokens ids = {0};
    qh_talk_result r;
    qh_status st;
    if (c->is_raw) {
        st = qh_tokenizer_encode(qh_model_tokenizer(c->loaded.model), text, strlen(text),
                                 QH_ENCODE_ADD_SPECIAL | QH_ENCODE_PARSE_SPECIAL, &ids, err);
    } else {
        add_message(c, "user", text, strlen(text));
        st = chat_prompt(c, &ids, err);
    }
    if (!st) {
        st = qh_talk(&c->loaded, c->event_fd, &ids, &c->talk, &r, err);
        putchar('\n');
        fflush(stdout);
        if (!st) print_rates(c, &r.usage);
        if (!st && !c->is_raw) add_message(c, "assistant", qh_str_z(&r.text), r.text.len);
        qh_talk_result_deinit(&r);
    }
    qh_tokens_deinit(&ids);
    return st;
}

static char *history_path(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    qh_str s = {0};
    if (state && *state) qh_str_appendf(&s, "%s/qhost_history", state);
    else qh_str_appendf(&s, "%s/.qhost_history", home && *home ? home : ".");
    return qh_str_steal(&s);
}

static bool is_blank(const char *s) { return s[strspn(s, " \t\r\n")] == 0; }

/* Commands of the chat; true: go on with the next line. */
static bool chat_command(chat *c, const char *line)
{
    if (strcmp(line, "/reset") == 0) {
        json_array_clear(c->messages);
        fprintf(stderr, "[a new conversation]\n");
        return true;
    }
    if (strcmp(line, "/help") == 0) {
        fprintf(stderr, "/reset begins anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer\n");
        return true;
    }
    return false;
}

static qh_status chat_loop(chat *c, qh_err *err)
{
    char *path = history_path(), *line = NULL;
    qh_status st = QH_OK;
    using_history();
    stifle_history(HISTORY_LINES);
    read_history(path);
    fprintf(stderr, "%s, context %d. /help lists commands.\n", qh_model_name(c->loaded.model), c->loaded.n_ctx);
    while (!st && (line = readline("> ")) && strcmp(line, "/quit") != 0) {
        if (!is_blank(line)) {
            add_history(line);
            if (!chat_command(c, line)) st = say(c, line, err);
        }
        if (st == QH_ECONTEXT || st == QH_EINVAL) {         /* the conversation is full: say so and go on */
            fprintf(stderr, "qhost: %s; /reset begins anew\n", err->msg);
            json_array_remove(c->messages, json_array_size(c->messages) - 1);
            qh_err_clear(err);
            st = QH_OK;
        }
        free(line);
    }
    if (!st && !line) fputc('\n', stderr);        /* after Ctrl-D, or a failed read */
    write_history(path);
    qh_free(path);
    return st;
}

static qh_status read_stdin(qh_str *out, qh_err *err)
{
    char buf[65536];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, stdin)) > 0) {
        qh_str_append(out, buf, n);
        if (out->len > MAX_STDIN_BYTES) return qh_fail(err, QH_ELIMIT, "more than %d MB on stdin", MAX_STDIN_BYTES >> 20);
    }
    return QH_OK;
}

static qh_status run_chat(chat *c, const char *prompt, const char *system, qh_err *err)
{
    if (system) add_message(c, "system", system, strlen(system));
    if (prompt) return say(c, prompt, err);
    if (isatty(STDIN_FILENO)) return chat_loop(c, err);
    qh_str text = {0};
    qh_status st = read_stdin(&text, err);
    if (!st) st = say(c, qh_str_z(&text), err);
    qh_str_deinit(&text);
    return st;
}

/* "run PROMPT" and "run MODEL PROMPT" look alike: a single argument with
 * spaces that is no file is the prompt. */
static void split_arguments(const char **args, int n_args, const char **model, const char **prompt)
{
    bool is_prompt = n_args == 1 && strchr(args[0], ' ') && access(args[0], F_OK) != 0;
    *model = n_args && !is_prompt ? args[0] : DEFAULT_MODEL;
    *prompt = is_prompt ? args[0] : n_args == 2 ? args[1] : NULL;
}

int qh_cmd_run(int argc, char **argv)
{
    chat c = {.talk = {.temperature = 0.7, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1.1, .seed = -1}};
    qh_loaded_options lo = {.max_seqs = 1, .device = {.device = "auto", .isa = "auto"}};
    const char *system = NULL;
    const qh_opt opts[] = {
        {"raw", 0, QH_OPT_FLAG, &c.is_raw, 0, 0, NULL, "continue PROMPT as plain text, without a chat template"},
        {"system", 's', QH_OPT_TEXT, &system, 0, 0, "TEXT", "system message"},
        {"max-tokens", 'n', QH_OPT_INT, &c.talk.max_tokens, 0, 1 << 24, "N", "longest answer; 0: up to the context"},
        {"temperature", 0, QH_OPT_FLOAT, &c.talk.temperature, 0, 0, "X", "0 is greedy; default 0.7"},
        {"top-p", 0, QH_OPT_FLOAT, &c.talk.top_p, 0, 0, "X", "default 0.95"},
        {"top-k", 0, QH_OPT_INT, &c.talk.top_k, 0, 1 << 20, "N", "0: off, the default"},
        {"min-p", 0, QH_OPT_FLOAT, &c.talk.min_p, 0, 0, "X", "default 0.05"},
        {"repeat-penalty", 0, QH_OPT_FLOAT, &c.talk.repeat_penalty, 0, 0, "X", "1: off; default 1.1"},
        {"seed", 0, QH_OPT_INT, &c.talk.seed, -1, INT32_MAX, "N", "the same answer every time; -1: drawn"},
        {"ctx", 'c', QH_OPT_INT, &lo.n_ctx, 0, 262144, "N", "context in tokens; 0: the model's"},
        {"threads", 't', QH_OPT_INT, &lo.device.n_threads, 0, 1024, "N", "compute threads; 0: all cores of this process"},
        {"device", 0, QH_OPT_TEXT, &lo.device.device, 0, 0, "NAME", "auto, cpu or cuda[:N]; auto takes a GPU where there is one"},
        {"gpu-memory", 0, QH_OPT_FLOAT, &lo.device.memory_share, 0, 0, "X", "share of the GPU's memory to use, all of it planned; 0: 0.9 at most, the\nKV cache as without a GPU"},
        {"deterministic", 0, QH_OPT_FLAG, &lo.device.is_exact, 0, 0, NULL, "GPU: the same bits in any batch, at a lower speed"},
        {"kv-type", 0, QH_OPT_TEXT, &lo.device.kv_type, 0, 0, "TYPE", "keys and values as bf16 (default) or, on a CPU, q8_0"},
        {"isa", 0, QH_OPT_TEXT, &lo.device.isa, 0, 0, "NAME", "level of the CPU kernels; auto, or a name that bench --help lists"},
        {"quiet", 'q', QH_OPT_FLAG, &c.is_quiet, 0, 0, NULL, "no rates after an answer"},
        {0}};
    const qh_opt_spec spec = {
        "qhost run [MODEL] [PROMPT] [options]",
        "Chat with a model. With a PROMPT, or with text on stdin, one answer is written to stdout; else\n"
        "lines are edited and kept in a history, Ctrl-C stops an answer, Ctrl-D leaves.\n"
        "MODEL is a name from `qhost list` or a path; default smollm2-135m.", opts, 0, 2};
    const char *args[argc], *prompt;
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    split_arguments(args, n_args, &lo.model, &prompt);

    qh_err err = {0};
    qh_log_set_level(QH_LOG_WARN);
    qh_status st = qh_eventfd_open(&c.event_fd, &err);
    lo.on_events = (qh_wakeup){on_events, &c.event_fd};
    c.messages = json_array();
    if (!st) st = qh_renderer_new(&c.renderer, &err);
    if (!st) st = qh_loaded_open(&c.loaded, &lo, &err);
    if (!st && !c.loaded.model) st = qh_fail(&err, QH_EUNSUPPORTED, "a scripted model is served, not run");
    if (!st) st = run_chat(&c, prompt, system, &err);
    qh_loaded_close(&c.loaded);
    qh_renderer_free(c.renderer);
    json_decref(c.messages);
    if (c.event_fd > 0) close(c.event_fd);
    return st ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
