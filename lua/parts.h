/* parts.h - what an app is made of, as far as the story of a reload tells: its routes, models,
 * tools, middlewares and files, each with a fingerprint.
 *
 * Two generations are compared by name and fingerprint. A function's fingerprint is its source
 * text, so a handler counts as changed when its own lines are; that a function it calls has
 * changed shows at that file. Thread: the loop thread. */
#pragma once
#include <lua.h>
#include <stdint.h>

typedef enum { QH_PART_ROUTE, QH_PART_MODEL, QH_PART_TOOL, QH_PART_HOOK, QH_PART_FILE } qh_part_kind;

typedef struct {
    qh_part_kind kind;
    char *name;                     /* "GET /x", "model small", "tool weather", "file app.lua" */
    uint64_t print;
} qh_part;

typedef struct {
    qh_part *items;                 /* sorted by kind and name once qh_parts_sort was called */
    int n;
} qh_parts;

void qh_parts_add(qh_parts *p, qh_part_kind kind, const char *name, uint64_t print);
/* The list on top of L, {{kind, name, function?, text?}, ...}; popped. Privileged. */
void qh_parts_read(qh_parts *p, lua_State *L);
void qh_parts_sort(qh_parts *p);
void qh_parts_deinit(qh_parts *p);

/* Calls fn for each difference: '+' added, '-' removed, '~' changed. Both are sorted. */
void qh_parts_compare(const qh_parts *old, const qh_parts *now,
                      void (*fn)(void *arg, char mark, const char *name), void *arg);
