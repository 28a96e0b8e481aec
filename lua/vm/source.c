/* source.c - see source.h */
#include "lua/vm/source.h"
#include "base/mem.h"
#include "lua/vm/vm_private.h"
#include <string.h>

void qh_sources_keep(qh_vm *vm, bool is_kept)
{
    vm->keeps_sources = is_kept;
    if (is_kept) return;
    for (int i = 0; i < vm->n_sources; i++) {
        qh_free(vm->sources[i].name);
        qh_str_deinit(&vm->sources[i].text);
    }
    qh_free(vm->sources);
    vm->sources = NULL;
    vm->n_sources = 0;
}

int qh_n_sources(const qh_vm *vm) { return vm->n_sources; }
const qh_source *qh_source_at(const qh_vm *vm, int i) { return &vm->sources[i]; }

void qh_source_note(qh_vm *vm, const char *name, const qh_str *text)
{
    if (!vm->keeps_sources) return;
    vm->sources = qh_realloc(vm->sources, sizeof *vm->sources * (size_t)(vm->n_sources + 1));
    qh_source *s = &vm->sources[vm->n_sources++];
    *s = (qh_source){.name = qh_strdup(name)};
    qh_str_append(&s->text, qh_str_z(text), text->len);
}

static bool is_named(const qh_source *s, const char *name, size_t len)
{
    size_t n = strlen(s->name);
    if (n == len && memcmp(s->name, name, len) == 0) return true;
    if (len < 4 || memcmp(name, "...", 3) != 0 || n < len - 3) return false;
    return memcmp(s->name + n - (len - 3), name + 3, len - 3) == 0;
}

/* The newest: a module whose first load failed may have been read again. */
const qh_source *qh_source_find(const qh_vm *vm, const char *name, size_t len)
{
    for (int i = vm->n_sources - 1; i >= 0; i--)
        if (is_named(&vm->sources[i], name, len)) return &vm->sources[i];
    return NULL;
}

qh_slice qh_source_lines(const qh_source *s, int first, int last)
{
    const char *p = qh_str_z(&s->text), *end = p + s->text.len;
    const char *from = NULL;
    for (int line = 1; p < end && line <= last; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        if (line == first) from = p;
        p = nl ? nl + 1 : end;
    }
    return from ? (qh_slice){from, (size_t)(p - from)} : (qh_slice){"", 0};
}
