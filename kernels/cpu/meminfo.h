/* meminfo.h - how much memory this process can still take without pushing anybody out. Thread: any.
 */
#pragma once
#include <stdint.h>

/* The least of what the machine has available and what the process's control groups leave,
 * in bytes; 0: unknown. Page cache that can be dropped counts as available. */
uint64_t qh_mem_available(void);
