/* dry.c - see dry.h */
#include "engine/dry.h"
#include <string.h>

static bool ends_with(const char *s, size_t len, const char *tail, size_t tail_len)
{
    return len >= tail_len && memcmp(s + len - tail_len, tail, tail_len) == 0;
}

/* Does a breaker end inside the last n_own bytes of text? */
static bool breaks(const qh_sampling *s, const char *text, size_t len, size_t n_own)
{
    for (int b = 0; b < s->n_dry_breakers; b++) {
        size_t n = strlen(s->dry_breakers[b]);
        for (size_t end = len - n_own + 1; end <= len; end++)
            if (ends_with(text, end, s->dry_breakers[b], n)) return true;
    }
    return false;
}

/* A token's bytes; control tokens give no text. */
static qh_slice bytes_of(const qh_vocab *v, qh_token id)
{
    return qh_vocab_type(v, id) == QH_TOKEN_CONTROL ? (qh_slice){"", 0} : qh_vocab_bytes(v, id);
}

static bool contains_breaker(const qh_sampling *s, const qh_vocab *v, qh_token id)
{
    qh_slice own = bytes_of(v, id);
    return own.len && breaks(s, own.data, own.len, own.len);
}

/* Is tokens[at] one in which a breaker ends? Looks back over as many bytes as a breaker can have. */
static bool is_breaking(const qh_sampling *s, size_t longest, const qh_vocab *v,
                        const qh_token *tokens, int at)
{
    qh_slice own = bytes_of(v, tokens[at]);
    if (own.len == 0) return false;
    if (breaks(s, own.data, own.len, own.len)) return true;
    char text[2 * QH_DRY_MAX_BREAKER_BYTES];        /* filled from the end */
    size_t n_own = own.len < longest ? own.len : longest, n = n_own;
    memcpy(text + sizeof text - n, own.data, n);    /* a breaker that began before ends in its first bytes */
    for (int i = at - 1; i >= 0 && n - n_own < longest - 1; i--) {
        qh_slice before = bytes_of(v, tokens[i]);
        size_t room = longest - 1 - (n - n_own), take = before.len < room ? before.len : room;
        n += take;
        memcpy(text + sizeof text - n, before.data + before.len - take, take);
    }
    return breaks(s, text + sizeof text - n, n, n_own);
}

/* How many tokens at the end a match may use: those after the last breaking one. */
static int free_tail(const qh_sampling *s, const qh_vocab *v, const qh_token *tokens, int n)
{
    int max = n < QH_DRY_MAX_MATCH ? n : QH_DRY_MAX_MATCH, len = 0;
    size_t longest = 0;
    for (int b = 0; b < s->n_dry_breakers; b++) {
        size_t bytes = strlen(s->dry_breakers[b]);
        if (bytes > longest) longest = bytes;
    }
    if (longest == 0) return max;
    while (len < max && !is_breaking(s, longest, v, tokens, n - 1 - len)) len++;
    return len;
}

/* lengths[i] = how many tokens before t[n-1-i], that one included, equal the tokens at the end: the Z
 * function of the reversed sequence (Gusfield 1997), for i >= 1. */
static void match_lengths(const qh_token *t, int n, int *lengths)
{
    int left = 0, right = 0;                        /* the match [left, right) that reaches farthest */
    for (int i = 1; i < n; i++) {
        int z = i < right ? (lengths[i - left] < right - i ? lengths[i - left] : right - i) : 0;
        while (i + z < n && t[n - 1 - z] == t[n - 1 - i - z]) z++;
        if (i + z > right) left = i, right = i + z;
        lengths[i] = z;
    }
}

/* By multiplication, so that every machine gives the same bits; stops growing where nothing survives. */
static float strength(const qh_sampling *s, int n_over)
{
    float p = s->dry_multiplier;
    while (n_over-- > 0 && p < 1e30f) p *= s->dry_base;
    return p;
}

void qh_dry_apply(const qh_sampling *s, const qh_vocab *vocab, const qh_history *h, float *logits,
                  int *lengths, int *matches)
{
    int n = s->dry_window < 0 || s->dry_window > h->n_tokens ? h->n_tokens : s->dry_window;
    const qh_token *t = h->tokens + (h->n_tokens - n);
    int max_match = free_tail(s, vocab, t, n);
    if (max_match < s->dry_allowed_length) return;
    match_lengths(t, n, lengths);
    for (int i = 1; i < n; i++) {
        int m = lengths[i] < max_match ? lengths[i] : max_match, *best = &matches[t[n - i]];
        if (m >= s->dry_allowed_length && m > *best) *best = m;
    }
    for (int i = 1; i < n; i++) {
        qh_token next = t[n - i];
        int m = matches[next];
        if (!m) continue;
        matches[next] = 0;
        if (contains_breaker(s, vocab, next)) continue;
        logits[next] -= strength(s, m - s->dry_allowed_length);
    }
}
