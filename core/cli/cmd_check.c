/* cmd_check.c - qhost check: load an app without serving it */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "lua/host_api.h"
#include <stdio.h>

int qh_cmd_check(int argc, char **argv)
{
    static const qh_opt_spec SPEC = {
        "qhost check APP.lua",
        "Load an app as serve would, without opening its models, and list its routes. An app that does\n"
        "not load is an error with file and line, and exit code 1.", NULL, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&SPEC, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    char *routes = NULL;
    qh_err err = {0};
    if (qh_lua_check(args[0], NULL, &routes, &err)) return qh_cmd_fail(&err);
    fputs(routes, stdout);
    qh_free(routes);
    return QH_EXIT_OK;
}
