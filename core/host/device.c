/* device.c - see device.h */
#include "host/device.h"
#include "kernels/cpu/cpu_backend.h"
#include <string.h>

static qh_status cpu_options(qh_cpu_options *out, const qh_device_options *opt, qh_err *err)
{
    if (opt->device && strcmp(opt->device, "auto") != 0 && strcmp(opt->device, "cpu") != 0)
        return qh_fail(err, QH_EINVAL, "unknown device '%s': auto and cpu are known", opt->device);
    *out = (qh_cpu_options){.n_threads = opt->n_threads, .pin = true, .is_mapped = true};
    return qh_isa_parse(&out->isa, opt->isa ? opt->isa : "auto", err);
}

qh_status qh_device_open(qh_backend **out, const qh_model *m, const qh_device_options *opt,
                         const qh_backend_limits *limits, qh_err *err)
{
    *out = NULL;
    qh_cpu_options cpu;
    qh_status st = cpu_options(&cpu, opt, err);
    if (!st) st = qh_cpu_backend_open(out, qh_model_desc(m), qh_model_weights(m), limits, &cpu, err);
    return st;
}

qh_status qh_device_plan(qh_memory_plan *out, const qh_model *m, const qh_device_options *opt,
                         const qh_backend_limits *limits, qh_err *err)
{
    qh_cpu_options cpu;
    qh_status st = cpu_options(&cpu, opt, err);
    if (!st) st = qh_cpu_backend_plan(out, qh_model_desc(m), qh_model_weights(m), limits, &cpu, err);
    return st;
}
