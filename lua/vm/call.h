/* call.h - one call into the library from outside any request: text in, text out.
 *
 * For commands (qhost render, run) and for the host at start. The VM has no loop, so nothing waits.
 * Thread: the VM's. */
#pragma once
#include "base/str.h"
#include "lua/vm/state.h"

/* Call function fn of library module `module` with one string and append the string that it
 * returns to out. QH_ESCRIPT: what it raised, or it returned nil, message. QH_ELIMIT: out of CPU
 * or memory. */
qh_status qh_vm_call(qh_vm *vm, const char *module, const char *fn, const char *arg, size_t len,
                     qh_str *out, qh_err *err);
