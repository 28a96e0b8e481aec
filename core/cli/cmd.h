/* cmd.h - the commands of qhost: each takes its own argv (argv[0] is the command's name), prints
 * results on stdout and talk on stderr, and returns an exit code (opts.h). */
#pragma once
#include "base/err.h"

#define QH_COMMAND_LIST(X)                                                                         \
    X(serve, "run an app: routes, prompts, tools and agents written in Lua")                       \
    X(run, "chat with a model in the terminal")                                                    \
    X(pull, "fetch a model into the model folder")                                                 \
    X(list, "the models in the model folder")                                                      \
    X(inspect, "what a model file holds")                                                          \
    X(tokenize, "text to token ids")                                                               \
    X(detokenize, "token ids to text")                                                             \
    X(render, "messages to prompt text with a chat template")                                      \
    X(eval_ids, "log-probabilities of given token ids")                                            \
    X(bench, "prefill and decode speed of a model")                                                \
    X(quantize, "write a model file in another type")                                              \
    X(check, "load an app without serving it")                                                     \
    X(test, "run an app's tests")

#define X(name, about) int qh_cmd_##name(int argc, char **argv);
QH_COMMAND_LIST(X)
#undef X

/* Print "qhost: <message>" on stderr and return QH_EXIT_FAILURE. */
int qh_cmd_fail(const qh_err *err);
