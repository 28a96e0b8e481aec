/* source.h - the text of an app's files, kept while it loads: for excerpts of errors and to tell
 * which functions a save has changed.
 *
 * Files are read on workers; what was compiled is what is kept, however often the file changes
 * meanwhile. Thread: the VM's. */
#pragma once
#include "base/str.h"
#include "lua/vm/state.h"

typedef struct {
    char *name;                 /* as messages show it: "app.lua", "lib/part.lua" */
    qh_str text;
} qh_source;

/* Keep the text of what is compiled from now on; false: stop, and forget it. */
void             qh_sources_keep(qh_vm *vm, bool is_kept);
int              qh_n_sources(const qh_vm *vm);
const qh_source *qh_source_at(const qh_vm *vm, int i);
/* By the name in a message, which Lua shortens to "...tail" when it is long; NULL: none. */
const qh_source *qh_source_find(const qh_vm *vm, const char *name, size_t len);
/* Lines first..last of it, from 1, with their line ends; those that are not there are left out. */
qh_slice         qh_source_lines(const qh_source *s, int first, int last);

/* module.c: a file was read; does nothing unless kept. text is copied. */
void             qh_source_note(qh_vm *vm, const char *name, const qh_str *text);
