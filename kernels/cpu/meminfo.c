/* meminfo.c - see meminfo.h
 *
 * Sources: /proc/meminfo (proc_meminfo(5)), and memory.max, memory.current, memory.stat of each
 * control group from the process's own up to the root (cgroup v2; in a container the root is what
 * the container sees). */
#include "kernels/cpu/meminfo.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char cgroup_root[] = "/sys/fs/cgroup";

/* The number behind a word at the start of a line; 0 when there is none. */
static uint64_t number_in(const char *path, const char *word)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[256];
    uint64_t n = 0;
    const size_t len = strlen(word);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, word, len) && sscanf(line + len, "%" SCNu64, &n) == 1) break;
    fclose(f);
    return n;
}

/* What one group leaves; UINT64_MAX: it has no limit. */
static uint64_t left_in_group(const char *dir)
{
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/memory.max", dir);
    uint64_t max = number_in(path, "");     /* "max" reads as 0, as does a missing file */
    if (!max) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/memory.current", dir);
    uint64_t used = number_in(path, "");
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    uint64_t cache = number_in(path, "inactive_file ") + number_in(path, "active_file ");
    used -= cache < used ? cache : used;
    return used < max ? max - used : 1;     /* 1: none left, which is not "unknown" */
}

static uint64_t left_in_groups(void)
{
    char line[PATH_MAX], dir[PATH_MAX + sizeof cgroup_root] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return UINT64_MAX;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "0::/", 4)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(dir, sizeof dir, "%s%s", cgroup_root, strcmp(line + 3, "/") ? line + 3 : "");
        }
    fclose(f);
    uint64_t least = UINT64_MAX;
    while (strlen(dir) >= sizeof cgroup_root - 1) {
        uint64_t left = left_in_group(dir);
        if (left < least) least = left;
        *strrchr(dir, '/') = 0;
    }
    return least;
}

uint64_t qh_mem_available(void)
{
    uint64_t machine = number_in("/proc/meminfo", "MemAvailable:") * 1024,
             groups = left_in_groups();
    if (!machine) return groups == UINT64_MAX ? 0 : groups;
    return machine < groups ? machine : groups;
}
