/* cmd_quantize.c - qhost quantize: a model file with its matrices in another type */
#include "base/mem.h"
#include "base/thread.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "host/models.h"
#include "model/quantize.h"
#include "model/requantize.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    bool has_bar;
    int percent;                    /* shown last */
    uint64_t n_bytes;               /* written */
} quantize_talk;

static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int signo)
{
    (void)signo;
    is_interrupted = 1;
}

static bool show_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    quantize_talk *t = arg;
    const int percent = (int)(100.0 * (double)done_bytes / (double)total_bytes);
    if (t->has_bar && percent != t->percent) fprintf(stderr, "\rquantize %3d %%%s", percent, percent == 100 ? "\r\033[K" : "");
    t->percent = percent;
    return !is_interrupted;
}

static void print_tensor(void *arg, const qh_requantized *r)
{
    quantize_talk *t = arg;
    t->n_bytes += r->n_bytes;
    printf("%-28s %-6s %-6s %10.2f", r->tensor->name, qh_dtype_name(r->from), qh_dtype_name(r->to), (double)r->n_bytes / 1e6);
    if (r->from == r->to) printf(" %12s %12s\n", "copied", "");
    else printf(" %11.4f%% %12.3g\n", r->rms_value > 0 ? 100 * r->rms_error / r->rms_value : 0, r->max_error);
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static qh_status check_output(const char *in, const char *out, bool is_forced, qh_err *err)
{
    if (is_same_file(in, out)) return qh_fail(err, QH_EINVAL, "%s: input and output are the same file", out);
    struct stat there;
    const bool exists = stat(out, &there) == 0;
    if (exists && !S_ISREG(there.st_mode)) return qh_fail(err, QH_EINVAL, "%s: not a regular file", out);
    if (exists && !is_forced) return qh_fail(err, QH_EEXIST, "%s: exists; --force replaces it", out);
    return QH_OK;
}

static void tell_input(const qh_gguf *g)
{
    for (int i = 0; i < qh_gguf_n_tensors(g); i++)
        if (qh_dtype_block_len(qh_gguf_tensor_at(g, i)->dtype) > 1) {
            fprintf(stderr, "%s is quantized already: the errors below add to those it has\n", qh_gguf_path(g));
            return;
        }
}

static qh_status quantize(const char *model, const char *out, const char *type, int n_threads, bool is_forced, qh_err *err)
{
    const qh_recipe *recipe;
    char *in = NULL;
    qh_gguf *g = NULL;
    quantize_talk talk = {.has_bar = isatty(STDERR_FILENO), .percent = -1};
    const qh_requantize_opts opts = {.n_threads = n_threads ? n_threads : qh_cpu_count(), .progress = show_progress,
                                     .on_tensor = print_tensor, .arg = &talk};
    qh_status st = qh_recipe_find(&recipe, type, err);
    if (!st) st = qh_models_find(&in, model, err);
    if (!st) st = check_output(in, out, is_forced, err);
    if (!st) st = qh_gguf_open(&g, in, err);
    if (!st) {
        tell_input(g);
        printf("%-28s %-6s %-6s %10s %12s %12s\n", "tensor", "from", "to", "MB", "rms error", "max error");
        st = qh_requantize(g, out, recipe, &opts, err);
    }
    if (!st) printf("%s: %s, %.1f MB of tensors out of %.1f MB\n", out, recipe->name, (double)talk.n_bytes / 1e6,
                    (double)qh_gguf_file_bytes(g) / 1e6);
    qh_gguf_close(g);
    qh_free(in);
    return st;
}

int qh_cmd_quantize(int argc, char **argv)
{
    int n_threads = 0;
    bool is_forced = false;
    const qh_opt opts[] = {
        {"threads", 't', QH_OPT_INT, &n_threads, 0, 64, "N", "threads; 0: all cores of this process"},
        {"force", 'f', QH_OPT_FLAG, &is_forced, 0, 0, NULL, "replace OUT when it exists"},
        {0}};
    const qh_opt_spec spec = {
        "qhost quantize IN OUT TYPE [options]",
        "Write the model IN (a file or a name from `qhost list`) as OUT with its matrices as TYPE:\n"
        "Q4_0, Q4_1, Q8_0, Q4_K_M, Q6_K or BF16. Norms and biases stay as they are; 4-bit types keep more\n"
        "bits for the output head, and Q4_K_M for some layers. Prints, for every tensor, the error in\n"
        "relation to its values (root mean square) and the largest one. OUT appears when it is complete.", opts, 3, 3};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    qh_err err = {0};
    return quantize(args[0], args[1], args[2], n_threads, is_forced, &err) ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
