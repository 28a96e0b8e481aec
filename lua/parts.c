/* parts.c - see parts.h */
#include "lua/parts.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include "lua/vm/source.h"
#include <stdlib.h>
#include <string.h>

static const char *const KIND_NAMES[] = {"route", "model", "tool", "middleware", "file"};

void qh_parts_add(qh_parts *p, qh_part_kind kind, const char *name, uint64_t print)
{
    qh_str shown = {0};
    if (kind != QH_PART_ROUTE) qh_str_appendf(&shown, "%s ", KIND_NAMES[kind]);
    qh_str_append_z(&shown, name);
    p->items = qh_realloc(p->items, sizeof *p->items * (size_t)(p->n + 1));
    p->items[p->n++] = (qh_part){kind, qh_str_steal(&shown), print};
}

static qh_part_kind kind_of(const char *name)
{
    for (int k = 0; name && k < QH_PART_FILE; k++)
        if (strcmp(KIND_NAMES[k], name) == 0) return (qh_part_kind)k;
    return QH_PART_HOOK;
}

/* Of the function on top, which is popped. */
static uint64_t print_of_function(lua_State *L)
{
    lua_Debug ar;
    lua_getinfo(L, ">S", &ar);
    if (*ar.source != '@') return 0;            /* the library's own */
    const qh_source *s = qh_source_find(qh_vm_of(L), ar.source + 1, strlen(ar.source + 1));
    if (!s) return 0;
    qh_slice text = qh_source_lines(s, ar.linedefined, ar.lastlinedefined);
    return qh_hash_bytes(text.data, text.len, 1);
}

void qh_parts_read(qh_parts *p, lua_State *L)
{
    int n = (int)lua_rawlen(L, -1);
    for (int i = 1; i <= n; i++) {
        uint64_t print = 0;
        lua_rawgeti(L, -1, i);
        for (int k = 1; k <= 4; k++) lua_rawgeti(L, -k, k);
        size_t len;
        const char *kind = lua_tostring(L, -4), *name = lua_tostring(L, -3);
        const char *text = lua_tolstring(L, -1, &len);
        if (text) print = qh_hash_bytes(text, len, 2);
        if (lua_isfunction(L, -2)) lua_pushvalue(L, -2), print ^= print_of_function(L);
        qh_parts_add(p, kind_of(kind), name ? name : "?", print);
        lua_pop(L, 5);
    }
    lua_pop(L, 1);
}

static int compare(const qh_part *a, const qh_part *b)
{
    return a->kind != b->kind ? (int)a->kind - (int)b->kind : strcmp(a->name, b->name);
}

static int compare_items(const void *a, const void *b) { return compare(a, b); }

void qh_parts_sort(qh_parts *p)
{
    if (p->n) qsort(p->items, (size_t)p->n, sizeof *p->items, compare_items);
}

void qh_parts_deinit(qh_parts *p)
{
    for (int i = 0; i < p->n; i++) qh_free(p->items[i].name);
    qh_free(p->items);
    *p = (qh_parts){0};
}

void qh_parts_compare(const qh_parts *old, const qh_parts *now,
                      void (*fn)(void *arg, char mark, const char *name), void *arg)
{
    for (int i = 0, k = 0; i < old->n || k < now->n;) {
        int order = i == old->n ? 1 : k == now->n ? -1 : compare(&old->items[i], &now->items[k]);
        if (order < 0) {
            fn(arg, '-', old->items[i++].name);
        } else if (order > 0) {
            fn(arg, '+', now->items[k++].name);
        } else {
            if (old->items[i].print != now->items[k].print) fn(arg, '~', now->items[k].name);
            i++, k++;
        }
    }
}
