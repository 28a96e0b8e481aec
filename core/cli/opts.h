/* opts.h - command-line options from a table: parsing, checking and --help from one place. */
#pragma once
#include "base/err.h"

typedef enum { QH_OPT_FLAG, QH_OPT_INT, QH_OPT_FLOAT, QH_OPT_TEXT, QH_OPT_LIST } qh_opt_kind;

enum { QH_OPT_LIST_MAX = 64 };
typedef struct {
    const char *items[QH_OPT_LIST_MAX];     /* in the order given; pointers into argv */
    int n;
} qh_opt_list;

typedef struct {
    const char *name;           /* "port" for --port; NULL ends the table */
    char letter;                /* 'p' for -p, or 0 */
    qh_opt_kind kind;
    void *value;                /* bool *, int *, double *, const char **, qh_opt_list * */
    int min, max;               /* QH_OPT_INT: inclusive range when max > min */
    const char *meta;           /* "N" in the help; NULL for flags */
    const char *help;           /* one line; may contain \n for more */
} qh_opt;

typedef struct {
    const char *usage;          /* "qhost serve APP.lua [options]" */
    const char *about;          /* paragraphs above the options */
    const qh_opt *opts;
    int min_args, max_args;     /* positional; max -1: any number */
} qh_opt_spec;

enum { QH_EXIT_OK = 0, QH_EXIT_FAILURE = 1, QH_EXIT_USAGE = 2 };

/* Parse argv[1..]. Options and positional arguments mix; "--" ends the options. args receives the
 * positional ones in order (room for argc). Returns -1 to go on, else an exit code: --help was
 * printed on stdout (0), or a usage error on stderr (2). */
int qh_opts_parse(const qh_opt_spec *spec, int argc, char **argv, const char **args, int *n_args);
