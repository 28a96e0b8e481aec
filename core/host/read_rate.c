/* read_rate.c - see read_rate.h
 *
 * Sums in registers as wide as the machine has, because narrow loads do not reach the caches' rate. */
#include "host/read_rate.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include <sys/mman.h>

enum { MAX_THREADS = 256, N_PASSES = 6, N_RUNS = 3 };
static const uint64_t k_most_bytes = 1ull << 30;

typedef uint64_t lane __attribute__((vector_size(64)));

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t sum_of(const lane *p, size_t n)
{
    lane a = {0}, b = {0}, c = {0}, d = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        a += p[i];
        b += p[i + 1];
        c += p[i + 2];
        d += p[i + 3];
    }
    for (; i < n; i++) a += p[i];
    a += b + c + d;
    return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
}

typedef struct {
    const lane *data;
    size_t n;
    int cpu;                        /* to stay on; -1: any */
    int64_t begun_us, ended_us;     /* of all passes but the first, which fills the caches */
    volatile uint64_t sum;          /* so that the reads are not dropped */
} reader;

static void read_again(void *arg)
{
    reader *r = arg;
    if (r->cpu >= 0) qh_thread_pin(r->cpu);
    r->sum += sum_of(r->data, r->n);
    r->begun_us = qh_now_us();
    for (int i = 0; i < N_PASSES; i++) r->sum += sum_of(r->data, r->n);
    r->ended_us = qh_now_us();
}

/* One run of all threads at once; *rate in bytes a second over the time from the first to the last. */
static qh_status run_readers(double *rate, reader *readers, int n, qh_err *err)
{
    qh_thread *threads[MAX_THREADS] = {NULL};
    qh_status st = QH_OK;
    for (int i = 0; i < n && !st; i++) st = qh_thread_start(&threads[i], "read-rate", read_again, &readers[i], err);
    for (int i = 0; i < n; i++) qh_thread_join(threads[i]);
    if (st) return st;
    int64_t begun = readers[0].begun_us, ended = readers[0].ended_us;
    for (int i = 1; i < n; i++) {
        if (readers[i].begun_us < begun) begun = readers[i].begun_us;
        if (readers[i].ended_us > ended) ended = readers[i].ended_us;
    }
    const double bytes = (double)readers[0].n * sizeof(lane) * n * N_PASSES;
    *rate = ended > begun ? bytes / (double)(ended - begun) * 1e6 : 0;
    return QH_OK;
}

qh_status qh_read_rate(double *out, uint64_t len_bytes, int n_threads, qh_err *err)
{
    const uint64_t len = len_bytes < k_most_bytes ? len_bytes : k_most_bytes;
    const int n = n_threads < MAX_THREADS ? n_threads : MAX_THREADS;
    const size_t n_lanes = (size_t)len / sizeof(lane) / (size_t)n;
    *out = 0;
    void *p = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return qh_fail(err, QH_ENOMEM, "no memory to read %llu bytes from", (unsigned long long)len);
    madvise(p, (size_t)len, MADV_HUGEPAGE);
    lane *data = p;
    for (size_t i = 0; i < (size_t)len / sizeof *data; i++) data[i] = (lane){i};

    reader readers[MAX_THREADS];
    int cpus[MAX_THREADS], n_cpus = qh_cpu_allowed(cpus, MAX_THREADS);
    for (int i = 0; i < n; i++)
        readers[i] = (reader){.data = data + n_lanes * (size_t)i, .n = n_lanes, .cpu = n <= n_cpus ? cpus[i] : -1};
    qh_status st = QH_OK;
    for (int i = 0; i < N_RUNS && !st; i++) {
        double rate = 0;
        st = run_readers(&rate, readers, n, err);
        if (rate > *out) *out = rate;
    }
    munmap(p, (size_t)len);
    return st;
}
