/* main.c - finds the command and runs it. */
#include "cli/cmd.h"
#include "cli/opts.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#ifndef QH_VERSION
#define QH_VERSION "unknown"
#endif

static const struct {
    const char *name, *about;
    int (*run)(int argc, char **argv);
} COMMANDS[] = {
#define X(name, about) {#name, about, qh_cmd_##name},
    QH_COMMAND_LIST(X)
#undef X
};
enum { N_COMMANDS = sizeof COMMANDS / sizeof *COMMANDS };

/* C names have '_' where commands have '-'. */
static bool is_command(const char *name, const char *typed)
{
    for (; *name && *typed; name++, typed++)
        if (*name != *typed && !(*name == '_' && *typed == '-')) return false;
    return !*name && !*typed;
}

static void print_help(FILE *out)
{
    fprintf(out, "qhost: a native inference host whose behaviour is written in Lua\n\n"
                 "Usage: qhost COMMAND [arguments] [options]\n\nCommands:\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        char shown[32];
        snprintf(shown, sizeof shown, "%s", COMMANDS[i].name);
        for (char *p = shown; *p; p++)
            if (*p == '_') *p = '-';
        fprintf(out, "  %-12s %s\n", shown, COMMANDS[i].about);
    }
    fprintf(out, "\nqhost COMMAND --help says more. Results go to stdout, talk to stderr.\n"
                 "Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

int qh_cmd_fail(const qh_err *err)
{
    fprintf(stderr, "qhost: %s\n", err->msg[0] ? err->msg : qh_status_text(err->status));
    return QH_EXIT_FAILURE;
}

/* Results that did not go out are a failure; a reader that has seen enough needs no message. */
static int finish(int rc)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return rc;
    if (errno != EPIPE) fprintf(stderr, "qhost: the results could not be written to stdout: %s\n", strerror(errno));
    return rc ? rc : QH_EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_help(stderr);
        return QH_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return QH_EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("qhost %s\n", QH_VERSION);
        return QH_EXIT_OK;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (is_command(COMMANDS[i].name, argv[1])) return finish(COMMANDS[i].run(argc - 1, argv + 1));
    fprintf(stderr, "qhost: no command '%s'; qhost --help lists them\n", argv[1]);
    return QH_EXIT_USAGE;
}
