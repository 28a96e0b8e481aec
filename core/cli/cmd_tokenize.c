/* cmd_tokenize.c - qhost tokenize and qhost detokenize: a model's tokenizer over JSON Lines */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/jsonl.h"
#include "cli/opts.h"
#include "host/models.h"
#include "model/model.h"
#include "text/detok.h"

/* A file that holds a vocabulary only will do. */
static qh_status open_named(qh_model **m, const char *name, qh_err *err)
{
    char *path;
    qh_status st = qh_models_find(&path, name, err);
    if (!st) st = qh_model_open_text(m, path, err);
    qh_free(path);
    return st;
}

static json_t *json_ids(const qh_tokens *t)
{
    json_t *a = json_array();
    for (int i = 0; i < t->len; i++) json_array_append_new(a, json_integer(t->ids[i]));
    return a;
}

static qh_status tokenize_line(void *arg, const json_t *in, json_t **out, qh_err *err)
{
    const char *text = NULL;
    size_t len = 0;
    bool add_special = false, parse_special = false;
    qh_status st = qh_jsonl_text(in, "text", true, &text, &len, err);
    if (!st) st = qh_jsonl_flag(in, "add_special", &add_special, err);
    if (!st) st = qh_jsonl_flag(in, "parse_special", &parse_special, err);
    if (st) return st;
    int flags = (add_special ? QH_ENCODE_ADD_SPECIAL : 0) | (parse_special ? QH_ENCODE_PARSE_SPECIAL : 0);
    qh_tokens ids = {0};
    st = qh_tokenizer_encode(qh_model_tokenizer(arg), text, len, flags, &ids, err);
    if (!st) *out = json_pack("{s:o}", "ids", json_ids(&ids));
    qh_tokens_deinit(&ids);
    return st;
}

static qh_status detokenize_line(void *arg, const json_t *in, json_t **out, qh_err *err)
{
    const qh_vocab *v = qh_tokenizer_vocab(qh_model_tokenizer(arg));
    bool show_special = false;
    int32_t *ids = NULL;
    int n = 0;
    qh_status st = qh_jsonl_ids(in, "ids", qh_vocab_len(v), &ids, &n, err);
    if (!st) st = qh_jsonl_flag(in, "show_special", &show_special, err);
    if (!st) {
        qh_str text = {0};
        qh_detok_all(v, ids, n, show_special, &text);
        *out = json_pack("{s:o}", "text", json_stringn(qh_str_z(&text), text.len));
        qh_str_deinit(&text);
        json_t *field = json_object_get(*out, "text");
        if (!field) st = qh_fail(err, QH_EFORMAT, "the bytes of these ids are not UTF-8");
    }
    qh_free(ids);
    return st;
}

static int run_over_lines(const qh_opt_spec *spec, qh_jsonl_fn fn, int argc, char **argv)
{
    const char *args[argc];
    int n_args, rc = qh_opts_parse(spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    qh_err err = {0};
    qh_model *m = NULL;
    if (open_named(&m, args[0], &err)) return qh_cmd_fail(&err);
    rc = qh_jsonl_run(fn, m);
    qh_model_close(m);
    return rc;
}

int qh_cmd_tokenize(int argc, char **argv)
{
    static const qh_opt_spec SPEC = {
        "qhost tokenize MODEL < requests.jsonl",
        "Reads JSON Lines on stdin, writes one line for each on stdout.\n"
        "  in:  {\"text\": string,\n"
        "        \"add_special\": bool     the model's begin and end tokens; default false\n"
        "        \"parse_special\": bool}  \"<|im_end|>\" in the text is the special token; default false\n"
        "  out: {\"ids\": [int, ...]} or {\"error\": string}",
        NULL, 1, 1};
    return run_over_lines(&SPEC, tokenize_line, argc, argv);
}

int qh_cmd_detokenize(int argc, char **argv)
{
    static const qh_opt_spec SPEC = {
        "qhost detokenize MODEL < requests.jsonl",
        "Reads JSON Lines on stdin, writes one line for each on stdout.\n"
        "  in:  {\"ids\": [int, ...],\n"
        "        \"show_special\": bool}   write special tokens by name; default false\n"
        "  out: {\"text\": string} or {\"error\": string}",
        NULL, 1, 1};
    return run_over_lines(&SPEC, detokenize_line, argc, argv);
}
