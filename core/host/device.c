/* device.c - see device.h */
#include "host/device.h"
#include "base/log.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool is_cuda, is_auto;
    qh_cuda_options cuda;
    qh_cpu_options cpu;
    qh_err why_cpu;                 /* auto without a GPU: what is missing */
} choice;

static bool parse_cuda(const char *s, int *device)
{
    if (strncmp(s, "cuda", 4) != 0) return false;
    if (!s[4]) return true;         /* the first */
    char *end;
    const long n = s[4] == ':' && s[5] >= '0' && s[5] <= '9' ? strtol(s + 5, &end, 10) : -1;
    if (n < 0 || n > 1023 || *end) return false;
    *device = (int)n;
    return true;
}

static qh_status parse_kv_type(qh_kv_type *out, const char *name, qh_err *err)
{
    static const char *const names[] = {
#define X(name, text) [QH_KV_##name] = text,
        QH_KV_TYPE_LIST(X)
#undef X
    };
    for (int i = 0; i < QH_N_KV_TYPE; i++)
        if (!name || strcmp(name, names[i]) == 0) {
            *out = (qh_kv_type)i;           /* without a name the first: bf16 */
            return QH_OK;
        }
    return qh_fail(err, QH_EINVAL, "unknown type '%s' of keys and values: bf16 and q8_0 are known", name);
}

static qh_status choose(choice *c, const qh_device_options *opt, qh_err *err)
{
    const char *name = opt->device ? opt->device : "auto";
    int n;
    *c = (choice){.cpu = {.n_threads = opt->n_threads, .pin = true, .is_mapped = true},
                  .cuda = {.is_exact = opt->is_exact, .memory_share = opt->memory_share}};
    c->is_auto = strcmp(name, "auto") == 0;
    qh_status st = parse_kv_type(&c->cpu.kv_type, opt->kv_type, err);
    if (st) return st;
    if (c->is_auto) c->is_cuda = qh_cuda_is_available(&n, &c->why_cpu);
    else c->is_cuda = parse_cuda(name, &c->cuda.device);
    if (!c->is_auto && !c->is_cuda && strcmp(name, "cpu") != 0)
        return qh_fail(err, QH_EINVAL, "unknown device '%s': auto, cpu and cuda[:N] are known",
                       name);
    return c->is_cuda ? QH_OK : qh_isa_parse(&c->cpu.isa, opt->isa ? opt->isa : "auto", err);
}

/* auto: what the GPU's kernels cannot do goes to the CPU. That memory is short does not: it is
 * told. */
static qh_status plan_choice(choice *c, qh_memory_plan *out, const qh_model *m,
                             const qh_device_options *opt, const qh_backend_limits *limits,
                             qh_err *err)
{
    const qh_desc *d = qh_model_desc(m);
    const qh_weights *w = qh_model_weights(m);
    if (!c->is_cuda) return qh_cpu_backend_plan(out, d, w, limits, &c->cpu, err);
    qh_err gpu = {0}, *gpu_err = c->is_auto ? &gpu : err;
    qh_status st = c->cpu.kv_type == QH_KV_BF16
                       ? qh_cuda_backend_plan(out, d, w, limits, &c->cuda, gpu_err)
                       : qh_fail(gpu_err, QH_EUNSUPPORTED, "the GPU's kernels store keys and values as bf16 only");
    if (!c->is_auto || !st) return st;
    if (st != QH_EUNSUPPORTED) return qh_fail(err, st, "%s", gpu.msg);
    c->is_cuda = false;
    c->why_cpu = gpu;
    st = qh_isa_parse(&c->cpu.isa, opt->isa ? opt->isa : "auto", err);
    return st ? st : qh_cpu_backend_plan(out, d, w, limits, &c->cpu, err);
}

qh_status qh_device_plan(qh_memory_plan *out, const qh_model *m, const qh_device_options *opt,
                         const qh_backend_limits *limits, qh_err *err)
{
    choice c;
    qh_status st = choose(&c, opt, err);
    return st ? st : plan_choice(&c, out, m, opt, limits, err);
}

qh_status qh_device_open(qh_backend **out, const qh_model *m, const qh_device_options *opt,
                         const qh_backend_limits *limits, qh_err *err)
{
    const qh_desc *d = qh_model_desc(m);
    const qh_weights *w = qh_model_weights(m);
    choice c;
    qh_memory_plan plan;
    *out = NULL;
    qh_status st = choose(&c, opt, err);
    if (!st) st = plan_choice(&c, &plan, m, opt, limits, err);
    if (st) return st;
    if (c.is_cuda) qh_info("device.open", "device=cuda:%d", c.cuda.device);
    else if (c.is_auto) qh_info("device.open", "device=cpu reason=\"%s\"", c.why_cpu.msg);
    return c.is_cuda ? qh_cuda_backend_open(out, d, w, limits, &c.cuda, err)
                     : qh_cpu_backend_open(out, d, w, limits, &c.cpu, err);
}
