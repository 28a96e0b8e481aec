/* opts.c - see opts.h */
#include "cli/opts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(const qh_opt_spec *spec)
{
    printf("Usage: %s\n\n%s\n", spec->usage, spec->about);
    if (spec->opts && spec->opts->name) printf("\nOptions:\n");
    for (const qh_opt *o = spec->opts; o && o->name; o++) {
        char left[64];
        char letter[8] = "    ";
        if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->meta ? " " : "",
                 o->meta ? o->meta : "");
        printf("  %-26s ", left);
        for (const char *p = o->help; *p; p++) {
            putchar(*p);
            if (*p == '\n') printf("  %-26s ", "");
        }
        putchar('\n');
    }
    printf("      --help                 this text\n");
}

static int usage_error(const qh_opt_spec *spec, const char *what, const char *arg)
{
    fprintf(stderr, "qhost: %s '%s'\nUsage: %s\nTry --help.\n", what, arg, spec->usage);
    return QH_EXIT_USAGE;
}

static const qh_opt *find_long(const qh_opt *opts, const char *name, size_t len)
{
    for (const qh_opt *o = opts; o && o->name; o++)
        if (strlen(o->name) == len && memcmp(o->name, name, len) == 0) return o;
    return NULL;
}

static const qh_opt *find_letter(const qh_opt *opts, char c)
{
    for (const qh_opt *o = opts; o && o->name; o++)
        if (o->letter == c) return o;
    return NULL;
}

static bool store(const qh_opt *o, const char *text)
{
    char *end;
    errno = 0;
    switch (o->kind) {
    case QH_OPT_FLAG: *(bool *)o->value = true; return true;
    case QH_OPT_TEXT: *(const char **)o->value = text; return true;
    case QH_OPT_LIST: {
        qh_opt_list *l = o->value;
        if (l->n == QH_OPT_LIST_MAX) return false;
        l->items[l->n++] = text;
        return true;
    }
    case QH_OPT_FLOAT: *(double *)o->value = strtod(text, &end); return *text && !*end && !errno;
    case QH_OPT_INT: {
        long v = strtol(text, &end, 10);
        if (!*text || *end || errno || v != (int)v) return false;
        if (o->max > o->min && (v < o->min || v > o->max)) return false;
        *(int *)o->value = (int)v;
        return true;
    }
    }
    return false;
}

static int bad_value(const qh_opt_spec *spec, const qh_opt *o, const char *text)
{
    fprintf(stderr, "qhost: --%s: '%s' is not ", o->name, text);
    if (o->kind == QH_OPT_FLOAT) fprintf(stderr, "a number\n");
    else if (o->kind == QH_OPT_LIST) fprintf(stderr, "taken: there are %d already\n", QH_OPT_LIST_MAX);
    else if (o->max > o->min) fprintf(stderr, "a whole number from %d to %d\n", o->min, o->max);
    else fprintf(stderr, "a whole number\n");
    fprintf(stderr, "Usage: %s\n", spec->usage);
    return QH_EXIT_USAGE;
}

/* One option at argv[*i]; moves *i over a separate value. */
static int parse_option(const qh_opt_spec *spec, int argc, char **argv, int *i)
{
    const char *arg = argv[*i], *value = NULL;
    const qh_opt *o;
    if (arg[1] == '-') {
        const char *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg - 2) : strlen(arg + 2);
        o = find_long(spec->opts, arg + 2, len);
        value = eq ? eq + 1 : NULL;
    } else {
        o = find_letter(spec->opts, arg[1]);
        value = arg[2] ? arg + 2 : NULL;
    }
    if (!o) return usage_error(spec, "unknown option", arg);
    if (o->kind == QH_OPT_FLAG) {
        if (value) return usage_error(spec, "option takes no value:", arg);
    } else if (!value) {
        if (*i + 1 >= argc) return usage_error(spec, "option needs a value:", arg);
        value = argv[++*i];
    }
    return store(o, value) ? -1 : bad_value(spec, o, value);
}

int qh_opts_parse(const qh_opt_spec *spec, int argc, char **argv, const char **args, int *n_args)
{
    *n_args = 0;
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_args && strcmp(arg, "--") == 0) {
            only_args = true;
        } else if (!only_args && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            print_help(spec);
            return QH_EXIT_OK;
        } else if (!only_args && arg[0] == '-' && arg[1]) {
            int rc = parse_option(spec, argc, argv, &i);
            if (rc >= 0) return rc;
        } else {
            args[(*n_args)++] = arg;
        }
    }
    if (*n_args < spec->min_args) {
        fprintf(stderr, "qhost: too few arguments\nUsage: %s\nTry --help.\n", spec->usage);
        return QH_EXIT_USAGE;
    }
    if (spec->max_args >= 0 && *n_args > spec->max_args)
        return usage_error(spec, "one argument too many:", args[spec->max_args]);
    return -1;
}
