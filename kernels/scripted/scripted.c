/* scripted.c - see scripted.h */
#include "scripted/scripted.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

typedef struct {
    qh_backend base;
    qh_script script;
    qh_backend_caps caps;
    qh_memory_plan plan;
    qh_vocab *vocab;
    qh_token *kv;               /* [n_pages][64] */
    qh_token *prefix;           /* [max_context] scratch: a sequence read from its pages */
    float *logits;              /* [max_outputs][QH_SCRIPTED_VOCAB] */
    int64_t done_us;            /* when the submitted step may end */
} scripted;

static scripted *self(qh_backend *b) { return (scripted *)b; }

/* GPT-2's printable alphabet: bytes that print stand for themselves, the others for U+0100 and up. */
static size_t piece_of_byte(int byte, char *out)
{
    bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    int code = byte, n_before = 0;
    for (int i = 0; !prints && i < byte; i++)
        n_before += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
    if (!prints) code = 256 + n_before;
    if (code < 128) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

static qh_status make_vocab(qh_vocab **out, qh_err *err)
{
    char bytes[256][2];
    qh_slice pieces[QH_SCRIPTED_VOCAB];
    int32_t types[QH_SCRIPTED_VOCAB];
    static const char *const CONTROL[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (int i = 0; i < QH_SCRIPTED_VOCAB; i++) {
        types[i] = i < 256 ? QH_TOKEN_NORMAL : QH_TOKEN_CONTROL;
        if (i < 256) pieces[i] = (qh_slice){bytes[i], piece_of_byte(i, bytes[i])};
        else pieces[i] = (qh_slice){CONTROL[i - 256], strlen(CONTROL[i - 256])};
    }
    const qh_vocab_spec spec = {
        .kind = QH_TOKENIZER_BPE,
        .pretokenizer = "gpt-2",
        .n_tokens = QH_SCRIPTED_VOCAB,
        .pieces = pieces,
        .types = types,
        .bos = QH_NO_TOKEN,
        .eos = QH_SCRIPTED_EOS,
        .eot = QH_SCRIPTED_IM_END,
        .unk = QH_NO_TOKEN,
        .pad = QH_NO_TOKEN,
    };
    return qh_vocab_new(out, &spec, err);
}

void qh_scripted_desc(qh_desc *out, int n_ctx)
{
    *out = (qh_desc){.arch = "scripted", .n_vocab = QH_SCRIPTED_VOCAB, .n_ctx_train = n_ctx};
}

/* Steps ------------------------------------------------------------------------------------------*/

static qh_token *slot(scripted *s, const qh_page *pages, int at)
{
    return &s->kv[(size_t)pages[at / QH_PAGE_TOKENS] * QH_PAGE_TOKENS +
                  (size_t)(at % QH_PAGE_TOKENS)];
}

static qh_status check_step(const scripted *s, const qh_step *step, qh_err *err)
{
    const qh_backend_limits *lim = &s->caps.limits;
    if (step->n_rows > lim->max_rows || step->n_seqs > lim->max_seqs ||
        step->n_outputs > lim->max_outputs)
        return qh_fail(err, QH_EINVAL,
                       "step of %d rows, %d sequences, %d outputs, expected at most %d, %d, %d",
                       step->n_rows, step->n_seqs, step->n_outputs, lim->max_rows, lim->max_seqs,
                       lim->max_outputs);
    for (int i = 0; i < step->n_seqs; i++)
        if (step->seqs[i].n_past + step->seqs[i].n_rows > lim->max_context)
            return qh_fail(err, QH_EINVAL, "a sequence of %d tokens, expected at most %d",
                           step->seqs[i].n_past + step->seqs[i].n_rows, lim->max_context);
    return QH_OK;
}

static void write_logits(const qh_scripted_next *next, float *logits)
{
    for (int i = 0; i < QH_SCRIPTED_VOCAB; i++) logits[i] = -60;
    for (int i = 0; i < next->n; i++)
        if (next->ids[i] >= 0 && next->ids[i] < QH_SCRIPTED_VOCAB && next->weights[i] > 0)
            logits[next->ids[i]] = logf(next->weights[i]);
}

static void ask(scripted *s, int n, float *logits)
{
    qh_scripted_next next = {0};
    qh_err err = {0};
    if (s->script.next(s->script.arg, s->prefix, n, &next, &err) == QH_OK) {
        write_logits(&next, logits);
        return;
    }
    qh_warn("scripted.next", "n_tokens=%d error=\"%s\"", n, err.msg);
    for (int i = 0; i < QH_SCRIPTED_VOCAB; i++) logits[i] = NAN;
}

static int64_t duration_us(const scripted *s, const qh_step *step)
{
    double us = s->script.steps_per_s > 0 ? 1e6 / s->script.steps_per_s : 0, prefill_us = 0;
    for (int i = 0; s->script.prefill_per_s > 0 && i < step->n_seqs; i++)
        if (step->seqs[i].n_rows > 1)
            prefill_us += 1e6 * step->seqs[i].n_rows / s->script.prefill_per_s;
    return (int64_t)(prefill_us > us ? prefill_us : us);
}

static qh_status scripted_submit(qh_backend *b, const qh_step *step, qh_err *err)
{
    scripted *s = self(b);
    int64_t begin = qh_now_us();
    qh_status st = check_step(s, step, err);
    if (st) return st;
    int out = 0;
    for (int q = 0; q < step->n_seqs; q++) {
        const qh_step_seq *seq = &step->seqs[q];
        int end = seq->first_row + seq->n_rows;
        for (int i = 0; i < seq->n_rows; i++)
            *slot(s, seq->pages, seq->n_past + i) = step->tokens[seq->first_row + i];
        if (out == step->n_outputs || step->output_rows[out] >= end) continue;
        for (int i = 0; i < seq->n_past + seq->n_rows; i++) s->prefix[i] = *slot(s, seq->pages, i);
        for (; out < step->n_outputs && step->output_rows[out] < end; out++) {
            int n = seq->n_past + step->output_rows[out] - seq->first_row + 1;
            ask(s, n, s->logits + (size_t)out * QH_SCRIPTED_VOCAB);
        }
    }
    s->done_us = begin + duration_us(s, step);
    return QH_OK;
}

static qh_status scripted_wait(qh_backend *b, const float **logits, qh_err *err)
{
    (void)err;
    int64_t left_us = self(b)->done_us - qh_now_us();
    if (left_us > 0) qh_sleep_us(left_us);
    *logits = self(b)->logits;
    return QH_OK;
}

/* Pages ------------------------------------------------------------------------------------------*/

static qh_token *page_at(qh_backend *b, qh_page page)
{
    return self(b)->kv + (size_t)page * QH_PAGE_TOKENS;
}

static qh_status scripted_copy(qh_backend *b, qh_page dst, qh_page src, int n_tokens, qh_err *err)
{
    (void)err;
    memcpy(page_at(b, dst), page_at(b, src), sizeof(qh_token) * (size_t)n_tokens);
    return QH_OK;
}

static qh_status scripted_read(qh_backend *b, void *dst, qh_page src, qh_err *err)
{
    (void)err;
    memcpy(dst, page_at(b, src), sizeof(qh_token) * QH_PAGE_TOKENS);
    return QH_OK;
}

static qh_status scripted_write(qh_backend *b, qh_page dst, const void *src, qh_err *err)
{
    (void)err;
    memcpy(page_at(b, dst), src, sizeof(qh_token) * QH_PAGE_TOKENS);
    return QH_OK;
}

/* Opening ----------------------------------------------------------------------------------------*/

static const qh_backend_caps *scripted_caps(const qh_backend *b)
{
    return &((const scripted *)b)->caps;
}
static const qh_memory_plan *scripted_plan(const qh_backend *b)
{
    return &((const scripted *)b)->plan;
}

static void free_memory(scripted *s)
{
    qh_vocab_free(s->vocab);
    qh_free(s->kv);
    qh_free(s->prefix);
    qh_free(s->logits);
    qh_free(s);
}

static void scripted_close(qh_backend *b)
{
    scripted *s = self(b);
    if (s->script.close) s->script.close(s->script.arg);
    free_memory(s);
}

static const qh_backend_ops OPS = {
    .close = scripted_close,
    .caps = scripted_caps,
    .plan = scripted_plan,
    .submit = scripted_submit,
    .wait = scripted_wait,
    .copy_page = scripted_copy,
    .read_page = scripted_read,
    .write_page = scripted_write,
};

static void fill_plan(scripted *s, const qh_backend_limits *lim)
{
    qh_memory_plan *p = &s->plan;
    p->page_bytes = sizeof(qh_token) * QH_PAGE_TOKENS;
    p->kv_bytes = p->page_bytes * (uint64_t)lim->n_pages;
    p->scratch_bytes = sizeof(float) * QH_SCRIPTED_VOCAB * (uint64_t)lim->max_outputs +
                       sizeof(qh_token) * (uint64_t)lim->max_context;
    p->total_bytes = p->kv_bytes + p->scratch_bytes;
}

qh_status qh_scripted_open(qh_backend **out, const qh_script *script,
                           const qh_backend_limits *limits, qh_err *err)
{
    *out = NULL;
    if (limits->n_pages < 1 || limits->max_rows < 1 || limits->max_seqs < 1 ||
        limits->max_outputs < 1 || limits->max_context < 1)
        return qh_fail(err, QH_EINVAL,
                       "a scripted backend of %d pages, %d rows, %d sequences, %d outputs, %d "
                       "tokens: each must be at least 1",
                       limits->n_pages, limits->max_rows, limits->max_seqs, limits->max_outputs,
                       limits->max_context);
    scripted *s = qh_new0(scripted);
    s->base.ops = &OPS;
    s->script = *script;
    fill_plan(s, limits);
    s->kv = qh_try_alloc0((size_t)limits->n_pages * QH_PAGE_TOKENS, sizeof *s->kv);
    s->prefix = qh_try_alloc0((size_t)limits->max_context, sizeof *s->prefix);
    s->logits = qh_try_alloc0((size_t)limits->max_outputs * QH_SCRIPTED_VOCAB, sizeof *s->logits);
    qh_status st = QH_OK;
    if (!s->kv || !s->prefix || !s->logits)
        st = qh_fail(err, QH_ENOMEM, "no memory for a scripted backend of %llu bytes",
                     (unsigned long long)s->plan.total_bytes);
    if (!st) st = make_vocab(&s->vocab, err);
    if (st) {
        free_memory(s);
        return st;
    }
    s->caps = (qh_backend_caps){
        .name = "scripted", .is_exact = true, .vocab = s->vocab, .limits = *limits};
    *out = &s->base;
    return QH_OK;
}
