/* team.c - see team.h
 *
 * Dissemination barrier: in round r thread i signals thread i + 2^r and waits for thread i - 2^r;
 * after ceil(log2 n) rounds everybody has heard of everybody. Each signal is a counter on a cache
 * line of its own with exactly one writer and one waiter, and only ever grows, so that no barrier
 * needs a reset. Two threads need one round: one store and one load each.
 *
 * How long to spin at a barrier: on a quiet machine the others arrive within microseconds, and
 * going to sleep costs more than waiting. On a busy one a thread loses its core for milliseconds;
 * when it is back the others sleep and have to be scheduled in turn, and if each then spins long
 * before it sleeps, ten times the work is burnt in spinning and the scheduler makes the team pay
 * for it (measured with five busy processes a core: 16 tokens a second with 100 us, 70 with 5 us).
 * So the spin grows while it succeeds and falls to the least when it does not. */
#include "kernels/cpu/team.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include <linux/futex.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    RUN_SPIN_US = 100,              /* between runs, where a caller prepares the next one */
    LEAST_SPIN_US = 5,              /* at barriers */
    MOST_SPIN_US = 40,
    PAUSES_PER_CLOCK = 16,
    MAX_ROUNDS = 8,
    CACHE_LINE = 64
};

/* A counter that threads wait on. sleepers tells the writer whether a wake-up call is needed. */
typedef struct {
    alignas(CACHE_LINE) _Atomic uint32_t count;
    _Atomic uint32_t sleepers;
} gate;

typedef struct {
    alignas(CACHE_LINE) gate rounds[MAX_ROUNDS];
    uint32_t n_barriers;            /* passed so far; its thread only */
    int spin_us;                    /* at the next barrier */
    struct qh_team *team;
    qh_thread *thread;              /* NULL for the caller */
    int index, cpu;                 /* cpu -1: not pinned */
} member;

struct qh_team {
    gate go;                        /* counts runs */
    void (*fn)(void *arg, int thread);
    void *arg;
    bool is_closing;                /* written before go is signalled, read after */
    int n_threads, n_rounds;
    uint32_t n_runs;
    member *members;
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, (void *)word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static inline bool has_reached(gate *g, uint32_t want)
{
    return (int32_t)(atomic_load_explicit(&g->count, memory_order_acquire) - want) >= 0;
}

/* The sleeper announces itself before it looks again, the writer counts before it looks for
 * sleepers, both in one total order: at least one of them sees the other. */
static void sleep_until(gate *g, uint32_t want)
{
    atomic_fetch_add(&g->sleepers, 1);
    for (;;) {
        uint32_t now = atomic_load(&g->count);
        if ((int32_t)(now - want) >= 0) break;
        futex(&g->count, FUTEX_WAIT, now);      /* returns at once when count is no longer now */
    }
    atomic_fetch_sub(&g->sleepers, 1);
}

/* False when spinning was not enough. */
static bool wait_until(gate *g, uint32_t want, int spin_us)
{
    if (has_reached(g, want)) return true;
    int64_t deadline_us = qh_now_us() + spin_us;
    do {
        for (int i = 0; i < PAUSES_PER_CLOCK; i++) {
            if (has_reached(g, want)) return true;
            cpu_relax();
        }
    } while (qh_now_us() < deadline_us);
    sleep_until(g, want);
    return false;
}

static inline void signal_gate(gate *g, uint32_t count)
{
    atomic_store(&g->count, count);
    if (atomic_load(&g->sleepers)) futex(&g->count, FUTEX_WAKE, INT32_MAX);
}

void qh_team_barrier(qh_team *t, int thread)
{
    member *m = &t->members[thread];
    const uint32_t count = ++m->n_barriers;
    bool has_slept = false;
    for (int r = 0; r < t->n_rounds; r++) {
        int to = (thread + (1 << r)) % t->n_threads;
        signal_gate(&t->members[to].rounds[r], count);
        has_slept |= !wait_until(&m->rounds[r], count, m->spin_us);
    }
    m->spin_us = has_slept                       ? LEAST_SPIN_US
                 : 2 * m->spin_us < MOST_SPIN_US ? 2 * m->spin_us
                                                 : MOST_SPIN_US;
}

static void member_main(void *p)
{
    member *m = p;
    qh_team *t = m->team;
    if (m->cpu >= 0) (void)qh_thread_pin(m->cpu);   /* a CPU taken away since: run unpinned */
    for (uint32_t run = 1;; run++) {
        wait_until(&t->go, run, RUN_SPIN_US);
        if (t->is_closing) return;
        t->fn(t->arg, m->index);
        qh_team_barrier(t, m->index);
    }
}

void qh_team_run(qh_team *t, void (*fn)(void *arg, int thread), void *arg)
{
    if (t->n_threads == 1) {
        fn(arg, 0);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    signal_gate(&t->go, ++t->n_runs);
    fn(arg, 0);
    qh_team_barrier(t, 0);
}

qh_status qh_team_new(qh_team **out, int n_threads, bool pin, qh_err *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > QH_TEAM_MAX)
        return qh_fail(err, QH_EINVAL, "%d threads: expected 1 to %d", n_threads, QH_TEAM_MAX);
    qh_team *t = aligned_alloc(CACHE_LINE, sizeof *t);
    member *members = aligned_alloc(CACHE_LINE, (size_t)n_threads * sizeof *members);
    int *cpus = qh_try_alloc0(QH_TEAM_MAX, sizeof *cpus);
    if (!t || !members || !cpus) {
        free(t);
        free(members);
        qh_free(cpus);
        return qh_fail(err, QH_ENOMEM, "no memory for a team of %d threads", n_threads);
    }
    memset(t, 0, sizeof *t);
    memset(members, 0, (size_t)n_threads * sizeof *members);
    t->members = members;
    t->n_threads = n_threads;
    while ((1 << t->n_rounds) < n_threads) t->n_rounds++;
    int n_cpus = qh_cpu_allowed(cpus, QH_TEAM_MAX);
    qh_status st = QH_OK;
    for (int i = 0; i < n_threads && !st; i++) {
        member *m = &members[i];
        m->team = t;
        m->index = i;
        m->spin_us = MOST_SPIN_US;
        m->cpu = pin && i < n_cpus ? cpus[i] : -1;
        if (i > 0) st = qh_thread_start(&m->thread, "qh-compute", member_main, m, err);
    }
    qh_free(cpus);
    if (st) {
        qh_team_free(t);
        return st;
    }
    *out = t;
    return QH_OK;
}

void qh_team_free(qh_team *t)
{
    if (!t) return;
    t->is_closing = true;
    signal_gate(&t->go, t->n_runs + 1);
    for (int i = 1; i < t->n_threads; i++) qh_thread_join(t->members[i].thread);
    free(t->members);
    free(t);
}

int qh_team_size(const qh_team *t) { return t->n_threads; }
