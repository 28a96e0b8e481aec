/* vocab.c - see vocab.h
 *
 * Two blocks of bytes: the pieces as stored, and the text that each stands for. Byte-level BPE
 * stores text in an alphabet of 256 printable characters, one a byte (Radford et al., GPT-2,
 * bytes_to_unicode): a byte that is a printable Latin-1 character stands for itself, the other 68
 * are U+0100, U+0101, ... in order. */
#include "text/vocab.h"
#include "base/mem.h"
#include "text/piecemap.h"
#include "text/utf8.h"
#include <math.h>
#include <string.h>

enum { IS_STOP = 1, IS_SPELLED = 2 }; /* IS_SPELLED: the text is the piece, decoded without doubt */
enum { ALPHABET_CODES = 256 + 68 };

struct qh_vocab {
    qh_tokenizer_kind kind;
    int n_tokens, n_merges;
    char *pretokenizer;
    qh_slices pieces, texts;
    unsigned char *types, *flags; /* [n_tokens] */
    float *scores;                /* [n_tokens] or NULL */
    qh_merge *merges;
    qh_piecemap by_piece, by_text;
    qh_token bos, eos, eot, unk, pad;
    bool add_bos, add_eos, add_space;
};

/* byte_of[code point] is the byte it spells, or -1. */
static void fill_alphabet(int16_t byte_of[ALPHABET_CODES])
{
    int next = 256;
    for (int i = 0; i < ALPHABET_CODES; i++) byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool is_printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        byte_of[is_printable ? b : next++] = (int16_t)b;
    }
}

static qh_status slices_init(qh_slices *s, int n, size_t len_bytes)
{
    s->at = qh_try_alloc0((size_t)n + 1, sizeof *s->at);
    s->blob = qh_try_alloc0(len_bytes, 1);
    return s->at && s->blob ? QH_OK : QH_ENOMEM;
}

static void slices_deinit(qh_slices *s)
{
    qh_free(s->at);
    qh_free(s->blob);
    *s = (qh_slices){0};
}

static qh_slice slice_at(const qh_slices *s, int i)
{
    return (qh_slice){s->blob + s->at[i], s->at[i + 1] - s->at[i]};
}

/* A piece in an error message, at most 40 bytes of it. */
#define PIECE_FMT    "\"%.*s\""
#define PIECE_ARG(p) (int)((p).len < 40 ? (p).len : 40), (p).data

/* ---- text of a piece ----------------------------------------------------------------------- */

static int code_point2(const char *p)
{
    return (p[0] & 0x1f) << 6 | (p[1] & 0x3f);
}

/* Writes the bytes that a byte-level piece spells; false when a character is not of the alphabet,
 * which then stands for itself. Never longer than the piece. */
static bool spell_bytes(const int16_t *byte_of, qh_slice p, char *dst, size_t *len)
{
    bool is_spelled = true;
    size_t n = 0;
    for (size_t i = 0; i < p.len;) {
        int c_len = qh_utf8_len(p.data + i, p.len - i), code = ALPHABET_CODES;
        if (c_len == 1) code = (unsigned char)p.data[i];
        if (c_len == 2) code = code_point2(p.data + i);
        if (code < ALPHABET_CODES && byte_of[code] >= 0) {
            dst[n++] = (char)byte_of[code];
        } else {
            is_spelled = false;
            for (int k = 0; k < (c_len ? c_len : 1); k++) dst[n++] = p.data[i + (size_t)k];
        }
        i += c_len ? (size_t)c_len : 1;
    }
    *len = n;
    return is_spelled;
}

static void spell_spaces(qh_slice p, char *dst, size_t *len)
{
    size_t n = 0;
    for (size_t i = 0; i < p.len;) {
        bool is_mark = p.len - i >= 3 && memcmp(p.data + i, "\xe2\x96\x81", 3) == 0;
        dst[n++] = is_mark ? ' ' : p.data[i];
        i += is_mark ? 3 : 1;
    }
    *len = n;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* "<0x0A>" -> 10; -1 when it is not written like that. */
static int byte_of_piece(qh_slice p)
{
    if (p.len != 6 || memcmp(p.data, "<0x", 3) != 0 || p.data[5] != '>') return -1;
    int hi = hex_digit(p.data[3]), lo = hex_digit(p.data[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

/* ---- construction -------------------------------------------------------------------------- */

static qh_status check_type(int32_t type, int id, unsigned char *out, qh_err *err)
{
    if (type < 0 || type > QH_TOKEN_BYTE)
        return qh_fail(err, QH_EFORMAT, "token %d: type %d, expected 1 to 6", id, (int)type);
    *out = type ? (unsigned char)type : QH_TOKEN_NORMAL;
    return QH_OK;
}

/* Copies piece i behind its predecessor and works out its text. */
static qh_status copy_token(qh_vocab *v, const qh_vocab_spec *spec, int i, const int16_t *byte_of,
                            qh_err *err)
{
    qh_slice p = spec->pieces[i];
    char *piece = v->pieces.blob + v->pieces.at[i], *text = v->texts.blob + v->texts.at[i];
    size_t text_len = p.len;
    bool is_spelled = true;
    qh_status st = check_type(spec->types ? spec->types[i] : 0, i, &v->types[i], err);
    if (st) return st;
    if (p.len) memcpy(piece, p.data, p.len);

    if (v->types[i] == QH_TOKEN_BYTE) {
        int byte = byte_of_piece(p);
        if (byte < 0)
            return qh_fail(err, QH_EFORMAT, "token %d: byte token " PIECE_FMT ", expected \"<0xHH>\"",
                           i, PIECE_ARG(p));
        text[0] = (char)byte;
        text_len = 1;
    } else if (v->types[i] != QH_TOKEN_NORMAL) {
        if (p.len) memcpy(text, p.data, p.len);
    } else if (v->kind == QH_TOKENIZER_BPE) {
        is_spelled = spell_bytes(byte_of, p, text, &text_len);
    } else {
        spell_spaces(p, text, &text_len);
    }
    if (is_spelled) v->flags[i] |= IS_SPELLED;
    v->pieces.at[i + 1] = v->pieces.at[i] + (uint32_t)p.len;
    v->texts.at[i + 1] = v->texts.at[i] + (uint32_t)text_len;
    return QH_OK;
}

static qh_status copy_tokens(qh_vocab *v, const qh_vocab_spec *spec, qh_err *err)
{
    size_t total = 0;
    for (int i = 0; i < v->n_tokens; i++) total += spec->pieces[i].len;
    if (total > UINT32_MAX)
        return qh_fail(err, QH_ELIMIT, "vocabulary: %zu bytes of pieces, at most 4 GiB", total);
    v->types = qh_try_alloc0((size_t)v->n_tokens, 1);
    v->flags = qh_try_alloc0((size_t)v->n_tokens, 1);
    if (!v->types || !v->flags || slices_init(&v->pieces, v->n_tokens, total) ||
        slices_init(&v->texts, v->n_tokens, total))
        return qh_fail(err, QH_ENOMEM, "vocabulary: %d tokens, %zu bytes", v->n_tokens, total);

    int16_t byte_of[ALPHABET_CODES];
    fill_alphabet(byte_of);
    qh_status st = QH_OK;
    for (int i = 0; !st && i < v->n_tokens; i++) st = copy_token(v, spec, i, byte_of, err);
    return st;
}

static qh_status index_tokens(qh_vocab *v, qh_err *err)
{
    if (qh_piecemap_init(&v->by_piece, &v->pieces, v->n_tokens) ||
        qh_piecemap_init(&v->by_text, &v->texts, v->n_tokens))
        return qh_fail(err, QH_ENOMEM, "vocabulary: index of %d tokens", v->n_tokens);
    for (int i = 0; i < v->n_tokens; i++) {
        qh_slice p = slice_at(&v->pieces, i);
        if (!p.len) continue;
        int first = qh_piecemap_put(&v->by_piece, i);
        if (first != i)
            return qh_fail(err, QH_EFORMAT, "token %d: piece " PIECE_FMT " is already token %d", i,
                           PIECE_ARG(p), first);
        if (v->types[i] == QH_TOKEN_NORMAL && (v->flags[i] & IS_SPELLED))
            qh_piecemap_put(&v->by_text, i);
    }
    return QH_OK;
}

static qh_status copy_scores(qh_vocab *v, const float *scores, qh_err *err)
{
    if (v->kind == QH_TOKENIZER_BPE) return QH_OK;
    if (!scores)
        return qh_fail(err, QH_EFORMAT, "scores: missing, a SentencePiece vocabulary needs them");
    v->scores = qh_try_alloc0((size_t)v->n_tokens, sizeof *v->scores);
    if (!v->scores) return qh_fail(err, QH_ENOMEM, "vocabulary: %d scores", v->n_tokens);
    for (int i = 0; i < v->n_tokens; i++) {
        if (isnan(scores[i]))
            return qh_fail(err, QH_EFORMAT, "token %d: its score is not a number", i);
        v->scores[i] = scores[i];
    }
    return QH_OK;
}

static bool may_result(const qh_vocab *v, qh_token id)
{
    return v->types[id] == QH_TOKEN_NORMAL || v->types[id] == QH_TOKEN_USER_DEFINED;
}

/* "left right": pieces hold no space, though a piece may begin with one that is its own. */
static qh_status parse_merge(const qh_vocab *v, int i, qh_slice m, qh_merge *out, char *joined,
                             qh_err *err)
{
    const char *space = m.len > 2 ? memchr(m.data + 1, ' ', m.len - 1) : NULL;
    if (!space || space == m.data + m.len - 1)
        return qh_fail(err, QH_EFORMAT,
                       "merge %d: " PIECE_FMT ", expected two pieces with a space between", i,
                       PIECE_ARG(m));
    qh_slice left = {m.data, (size_t)(space - m.data)}, right = {space + 1, m.len - left.len - 1};
    memcpy(joined, left.data, left.len);
    memcpy(joined + left.len, right.data, right.len);
    qh_slice sides[3] = {left, right, {joined, left.len + right.len}};
    qh_token ids[3];
    for (int k = 0; k < 3; k++) {
        ids[k] = qh_piecemap_find(&v->by_piece, sides[k].data, sides[k].len);
        if (ids[k] < 0)
            return qh_fail(err, QH_EFORMAT, "merge %d: " PIECE_FMT " is not in the vocabulary", i,
                           PIECE_ARG(sides[k]));
    }
    *out = (qh_merge){ids[0], ids[1], ids[2]};
    return QH_OK;
}

static qh_status copy_merges(qh_vocab *v, const qh_vocab_spec *spec, qh_err *err)
{
    size_t longest = 0;
    for (int i = 0; i < spec->n_merges; i++)
        if (spec->merges[i].len > longest) longest = spec->merges[i].len;
    char *joined = qh_try_alloc0(longest, 1);
    v->merges = qh_try_alloc0((size_t)spec->n_merges, sizeof *v->merges);
    qh_status st =
        joined && v->merges ? QH_OK : qh_fail(err, QH_ENOMEM, "merges: %d of them", spec->n_merges);
    for (int i = 0; !st && i < spec->n_merges; i++) {
        qh_merge *m = &v->merges[v->n_merges];
        st = parse_merge(v, i, spec->merges[i], m, joined, err);
        if (!st && may_result(v, m->result)) v->n_merges++;
    }
    qh_free(joined);
    return st;
}

static qh_status check_id(const qh_vocab *v, const char *key, qh_token id, qh_err *err)
{
    if (id >= QH_NO_TOKEN && id < v->n_tokens) return QH_OK;
    return qh_fail(err, QH_EFORMAT, "%s: token id %d, expected 0 to %d", key, (int)id,
                   v->n_tokens - 1);
}

static qh_status set_specials(qh_vocab *v, const qh_vocab_spec *spec, qh_err *err)
{
    const struct {
        const char *key;
        qh_token id, *to;
    } ids[] = {{"bos", spec->bos, &v->bos},
               {"eos", spec->eos, &v->eos},
               {"eot", spec->eot, &v->eot},
               {"unk", spec->unk, &v->unk},
               {"pad", spec->pad, &v->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        qh_status st = check_id(v, ids[i].key, ids[i].id, err);
        if (st) return st;
        *ids[i].to = ids[i].id;
    }
    if (spec->add_bos && spec->bos < 0)
        return qh_fail(err, QH_EFORMAT, "add_bos is set, but the vocabulary names no bos token");
    if (spec->add_eos && spec->eos < 0)
        return qh_fail(err, QH_EFORMAT, "add_eos is set, but the vocabulary names no eos token");
    v->add_bos = spec->add_bos;
    v->add_eos = spec->add_eos;
    v->add_space = spec->kind == QH_TOKENIZER_SPM && spec->add_space_prefix;

    if (v->eos >= 0) v->flags[v->eos] |= IS_STOP;
    if (v->eot >= 0) v->flags[v->eot] |= IS_STOP;
    for (int i = 0; i < spec->n_stops; i++) {
        if (spec->stops[i] < 0 || spec->stops[i] >= v->n_tokens)
            return check_id(v, "stops", spec->stops[i] < 0 ? v->n_tokens : spec->stops[i], err);
        v->flags[spec->stops[i]] |= IS_STOP;
    }
    return QH_OK;
}

qh_status qh_vocab_new(qh_vocab **out, const qh_vocab_spec *spec, qh_err *err)
{
    *out = NULL;
    if (spec->n_tokens <= 0) return qh_fail(err, QH_EFORMAT, "vocabulary: no tokens");
    if (spec->n_merges < 0)
        return qh_fail(err, QH_EFORMAT, "merges: a count of %d", spec->n_merges);
    qh_vocab *v = qh_new0(qh_vocab);
    v->kind = spec->kind;
    v->n_tokens = spec->n_tokens;
    v->pretokenizer = qh_strdup(spec->pretokenizer ? spec->pretokenizer : "default");
    qh_status st;
    if ((st = copy_tokens(v, spec, err)) || (st = index_tokens(v, err)) ||
        (st = copy_scores(v, spec->scores, err)) || (st = copy_merges(v, spec, err)) ||
        (st = set_specials(v, spec, err))) {
        qh_vocab_free(v);
        return st;
    }
    *out = v;
    return QH_OK;
}

void qh_vocab_free(qh_vocab *v)
{
    if (!v) return;
    qh_piecemap_deinit(&v->by_piece);
    qh_piecemap_deinit(&v->by_text);
    slices_deinit(&v->pieces);
    slices_deinit(&v->texts);
    qh_free(v->types);
    qh_free(v->flags);
    qh_free(v->scores);
    qh_free(v->merges);
    qh_free(v->pretokenizer);
    qh_free(v);
}

/* ---- questions ----------------------------------------------------------------------------- */

int qh_vocab_len(const qh_vocab *v)
{
    return v->n_tokens;
}
qh_tokenizer_kind qh_vocab_kind(const qh_vocab *v)
{
    return v->kind;
}
const char *qh_vocab_pretokenizer(const qh_vocab *v)
{
    return v->pretokenizer;
}
qh_token qh_vocab_bos(const qh_vocab *v)
{
    return v->bos;
}
qh_token qh_vocab_eos(const qh_vocab *v)
{
    return v->eos;
}
qh_token qh_vocab_eot(const qh_vocab *v)
{
    return v->eot;
}
qh_token qh_vocab_unk(const qh_vocab *v)
{
    return v->unk;
}
qh_token qh_vocab_pad(const qh_vocab *v)
{
    return v->pad;
}
bool qh_vocab_adds_bos(const qh_vocab *v)
{
    return v->add_bos;
}
bool qh_vocab_adds_eos(const qh_vocab *v)
{
    return v->add_eos;
}
bool qh_vocab_adds_space(const qh_vocab *v)
{
    return v->add_space;
}

static void check_range(const qh_vocab *v, qh_token id)
{
    qh_assert(id >= 0 && id < v->n_tokens);
}

qh_token_type qh_vocab_type(const qh_vocab *v, qh_token id)
{
    check_range(v, id);
    return v->types[id];
}

qh_slice qh_vocab_bytes(const qh_vocab *v, qh_token id)
{
    check_range(v, id);
    return slice_at(&v->texts, id);
}

qh_slice qh_vocab_piece(const qh_vocab *v, qh_token id)
{
    check_range(v, id);
    return slice_at(&v->pieces, id);
}

qh_token qh_vocab_find(const qh_vocab *v, const char *piece, size_t len)
{
    return qh_piecemap_find(&v->by_piece, piece, len);
}

qh_token qh_vocab_find_text(const qh_vocab *v, const char *text, size_t len)
{
    return qh_piecemap_find(&v->by_text, text, len);
}

float qh_vocab_score(const qh_vocab *v, qh_token id)
{
    check_range(v, id);
    return v->scores ? v->scores[id] : 0.0f;
}

const qh_merge *qh_vocab_merges(const qh_vocab *v, int *n)
{
    *n = v->n_merges;
    return v->merges;
}

bool qh_vocab_is_stop(const qh_vocab *v, qh_token id)
{
    check_range(v, id);
    return v->flags[id] & IS_STOP;
}

bool qh_vocab_is_special(const qh_vocab *v, qh_token id)
{
    qh_token_type t = qh_vocab_type(v, id);
    return t == QH_TOKEN_CONTROL || t == QH_TOKEN_UNKNOWN || t == QH_TOKEN_USER_DEFINED;
}

bool qh_vocab_is_shown(const qh_vocab *v, qh_token id)
{
    qh_token_type t = qh_vocab_type(v, id);
    return t == QH_TOKEN_NORMAL || t == QH_TOKEN_USER_DEFINED || t == QH_TOKEN_BYTE;
}
