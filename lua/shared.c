/* shared.c - see shared.h */
#include "lua/shared.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

enum { FIRST_SLOTS = 64 };

/* key and text follow the struct in one block */
typedef struct entry {
    struct entry *next;                 /* in its slot */
    struct entry *newer, *older;        /* by use */
    uint64_t hash;
    int64_t end_us;                     /* 0: never */
    size_t key_len, size_bytes;
    qh_shared_value value;
    char key[];
} entry;

struct qh_shared {
    char *name;
    size_t max_bytes, used_bytes;
    bool is_evicting;
    entry **slots;
    size_t n_slots, n_entries;          /* n_slots: a power of two */
    entry *newest, *oldest;
};

struct qh_shareds {
    qh_shared *tables[QH_SHARED_MAX_TABLES];
    int n_tables;
};

/* ---- the order of use ---- */

static void unlink_use(qh_shared *s, entry *e)
{
    if (e->newer) e->newer->older = e->older;
    else s->newest = e->older;
    if (e->older) e->older->newer = e->newer;
    else s->oldest = e->newer;
    e->newer = e->older = NULL;
}

static void link_newest(qh_shared *s, entry *e)
{
    e->older = s->newest;
    if (s->newest) s->newest->newer = e;
    else s->oldest = e;
    s->newest = e;
}

/* ---- slots ---- */

static entry **slot_of(const qh_shared *s, uint64_t hash) { return &s->slots[hash & (s->n_slots - 1)]; }

static entry *find(const qh_shared *s, const char *key, size_t len)
{
    uint64_t hash = qh_hash_bytes(key, len, 0);
    entry *e = *slot_of(s, hash);
    while (e && !(e->hash == hash && e->key_len == len && !memcmp(e->key, key, len))) e = e->next;
    return e;
}

static void drop(qh_shared *s, entry *e)
{
    entry **at = slot_of(s, e->hash);
    while (*at != e) at = &(*at)->next;
    *at = e->next;
    unlink_use(s, e);
    s->used_bytes -= e->size_bytes;
    s->n_entries--;
    qh_free(e);
}

static entry *find_live(qh_shared *s, const char *key, size_t len)
{
    entry *e = find(s, key, len);
    if (!e || !e->end_us || e->end_us > qh_now_us()) return e;
    drop(s, e);
    return NULL;
}

static void grow(qh_shared *s)
{
    size_t n = s->n_slots * 2;
    entry **slots = qh_alloc0(n * sizeof *slots);
    for (size_t i = 0; i < s->n_slots; i++)
        for (entry *e = s->slots[i], *next; e; e = next) {
            next = e->next;
            e->next = slots[e->hash & (n - 1)];
            slots[e->hash & (n - 1)] = e;
        }
    qh_free(s->slots);
    s->slots = slots;
    s->n_slots = n;
}

static void drop_expired(qh_shared *s)
{
    int64_t now = qh_now_us();
    for (entry *e = s->oldest, *newer; e; e = newer) {
        newer = e->newer;
        if (e->end_us && e->end_us <= now) drop(s, e);
    }
}

/* ---- values ---- */

const qh_shared_value *qh_shared_get(qh_shared *s, const char *key, size_t len)
{
    entry *e = find_live(s, key, len);
    if (!e) return NULL;
    unlink_use(s, e);
    link_newest(s, e);
    return &e->value;
}

static entry *entry_new(const char *key, size_t len, const qh_shared_value *v, size_t size)
{
    entry *e = qh_try_alloc0(1, size);
    if (!e) return NULL;
    e->hash = qh_hash_bytes(key, len, 0);
    e->key_len = len;
    e->size_bytes = size;
    e->value = *v;
    memcpy(e->key, key, len);
    if (v->len_bytes) memcpy(e->key + len + 1, v->text, v->len_bytes);
    e->value.text = e->key + len + 1;
    return e;
}

qh_status qh_shared_set(qh_shared *s, const char *key, size_t len, const qh_shared_value *v,
                        int64_t ttl_us, qh_err *err)
{
    size_t size = sizeof(entry) + len + v->len_bytes + 2;
    entry *old = find_live(s, key, len);
    size_t kept = s->used_bytes - (old ? old->size_bytes : 0);
    if (size > s->max_bytes || (!s->is_evicting && kept + size > s->max_bytes)) {
        drop_expired(s);
        old = find(s, key, len);
        kept = s->used_bytes - (old ? old->size_bytes : 0);
        if (size > s->max_bytes || kept + size > s->max_bytes)
            return qh_fail(err, QH_ELIMIT, "'%s' holds at most %zu bytes: no room for %zu more", s->name,
                           s->max_bytes, size);
    }
    int64_t end_us = ttl_us > 0 ? qh_now_us() + ttl_us : ttl_us < 0 && old ? old->end_us : 0;
    entry *e = entry_new(key, len, v, size);
    if (!e) return qh_fail(err, QH_ENOMEM, "'%s': no memory for %zu bytes", s->name, size);
    e->end_us = end_us;
    if (old) drop(s, old);
    while (s->used_bytes + size > s->max_bytes) drop(s, s->oldest);
    if (s->n_entries >= s->n_slots) grow(s);
    e->next = *slot_of(s, e->hash);
    *slot_of(s, e->hash) = e;
    link_newest(s, e);
    s->used_bytes += size;
    s->n_entries++;
    return QH_OK;
}

bool qh_shared_del(qh_shared *s, const char *key, size_t len)
{
    entry *e = find_live(s, key, len);
    if (e) drop(s, e);
    return e != NULL;
}

const char *qh_shared_next(qh_shared *s, const char *key, size_t key_len, const char *prefix,
                           size_t prefix_len, size_t *len)
{
    entry *after = key ? find(s, key, key_len) : NULL;
    int64_t now = qh_now_us();
    for (entry *e = key ? (after ? after->older : NULL) : s->newest; e; e = e->older) {
        if (e->end_us && e->end_us <= now) continue;
        if (e->key_len < prefix_len || memcmp(e->key, prefix, prefix_len)) continue;
        *len = e->key_len;
        return e->key;
    }
    return NULL;
}

size_t qh_shared_bytes(const qh_shared *s) { return s->used_bytes; }

/* ---- buckets ---- */

static void refill(qh_shared_value *b, const qh_shared_rate *r, int64_t now)
{
    b->number += (double)(now - b->integer) * r->rate / (double)r->per_us;
    if (b->number > r->size) b->number = r->size;
    b->integer = now;
    b->size = r->size;
}

qh_status qh_shared_take(qh_shared *s, const char *key, size_t len, double cost,
                         const qh_shared_rate *rate, bool *is_taken, double *wait_s, qh_err *err)
{
    int64_t now = qh_now_us();
    qh_shared_value b = {.kind = QH_SHARED_BUCKET, .number = rate->size, .integer = now};
    const qh_shared_value *old = qh_shared_get(s, key, len);
    if (old && old->kind == QH_SHARED_BUCKET) b = *old;
    else if (old) return qh_fail(err, QH_EINVAL, "the key holds a value, no bucket");
    refill(&b, rate, now);
    double needed = fmin(cost, rate->size);
    *is_taken = b.number >= needed;
    *wait_s = *is_taken ? 0 : (needed - b.number) * (double)rate->per_us / rate->rate / 1e6;
    if (*is_taken) b.number -= cost;
    /* It is forgotten once it would be full again anyway. */
    double full_us = (rate->size - b.number) * (double)rate->per_us / rate->rate;
    int64_t ttl_us = (int64_t)fmin(fmax(full_us, 1e6), 1e15);
    b.len_bytes = 0;
    return qh_shared_set(s, key, len, &b, ttl_us, err);
}

void qh_shared_settle(qh_shared *s, const char *key, size_t len, double tokens)
{
    entry *e = find_live(s, key, len);
    if (!e || e->value.kind != QH_SHARED_BUCKET) return;
    e->value.number = fmin(e->value.number + tokens, e->value.size);
    if (tokens < 0) e->end_us = 0;              /* how long it takes to fill says the next take */
}

/* ---- tables ---- */

qh_shareds *qh_shareds_new(void) { return qh_new0(qh_shareds); }

void qh_shareds_free(qh_shareds *all)
{
    for (int i = 0; all && i < all->n_tables; i++) {
        qh_shared *s = all->tables[i];
        while (s->newest) drop(s, s->newest);
        qh_free(s->slots);
        qh_free(s->name);
        qh_free(s);
    }
    qh_free(all);
}

qh_status qh_shareds_get(qh_shareds *all, const char *name, size_t max_bytes, bool is_evicting,
                         qh_shared **out, qh_err *err)
{
    *out = NULL;
    for (int i = 0; i < all->n_tables && !*out; i++)
        if (!strcmp(all->tables[i]->name, name)) *out = all->tables[i];
    if (*out) return QH_OK;
    if (all->n_tables == QH_SHARED_MAX_TABLES)
        return qh_fail(err, QH_ELIMIT, "there are %d shared tables already", QH_SHARED_MAX_TABLES);
    qh_shared *s = *out = qh_new0(qh_shared);
    s->name = qh_strdup(name);
    s->max_bytes = max_bytes ? max_bytes : QH_SHARED_DEFAULT_BYTES;
    s->is_evicting = is_evicting;
    s->n_slots = FIRST_SLOTS;
    s->slots = qh_alloc0(FIRST_SLOTS * sizeof *s->slots);
    all->tables[all->n_tables++] = s;
    return QH_OK;
}
