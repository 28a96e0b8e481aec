/* watch.c - see watch.h */
#include "lua/watch.h"
#include "base/mem.h"
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
    DEBOUNCE_US = 50000,
    EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE
};

typedef struct {
    int wd;                         /* of its folder; -1: not to be watched */
    char *name;                     /* within the folder */
} watched;

struct qh_watcher {
    int fd;
    qh_watch *watch;
    qh_timer *timer;
    watched *files;
    int n_files;
    void (*fn)(void *arg);
    void *arg;
};

static bool is_ours(const qh_watcher *w, const struct inotify_event *ev)
{
    if (ev->mask & IN_Q_OVERFLOW) return true;
    for (int i = 0; i < w->n_files; i++)
        if (w->files[i].wd == ev->wd && ev->len && strcmp(w->files[i].name, ev->name) == 0)
            return true;
    return false;
}

static void on_readable(void *arg, int what)
{
    (void)what;
    qh_watcher *w = arg;
    _Alignas(struct inotify_event) char buf[8192];
    bool is_changed = false;
    ssize_t n;
    while ((n = read(w->fd, buf, sizeof buf)) > 0) {
        for (char *p = buf; p < buf + n;) {
            const struct inotify_event *ev = (const struct inotify_event *)p;
            is_changed |= is_ours(w, ev);
            p += sizeof *ev + ev->len;
        }
    }
    if (is_changed) qh_timer_set(w->timer, DEBOUNCE_US);
}

static void on_timer(void *arg)
{
    qh_watcher *w = arg;
    w->fn(w->arg);
}

qh_status qh_watcher_new(qh_watcher **out, qh_loop *loop, void (*fn)(void *arg), void *arg,
                         qh_err *err)
{
    *out = NULL;
    qh_watcher *w = qh_new0(qh_watcher);
    w->fn = fn;
    w->arg = arg;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    qh_status st =
        w->fd < 0 ? qh_fail(err, QH_EIO, "cannot watch files: %s", strerror(errno)) : QH_OK;
    if (!st) st = qh_watch_new(&w->watch, loop, w->fd, QH_READABLE, on_readable, w, err);
    if (st) {
        qh_watcher_free(w);
        return st;
    }
    w->timer = qh_timer_new(loop, on_timer, w);
    *out = w;
    return QH_OK;
}

static void forget(qh_watcher *w)
{
    for (int i = 0; i < w->n_files; i++) {
        if (w->files[i].wd >= 0)
            inotify_rm_watch(w->fd, w->files[i].wd); /* shared ones: the later calls fail */
        qh_free(w->files[i].name);
    }
    qh_free(w->files);
    w->files = NULL;
    w->n_files = 0;
}

void qh_watcher_free(qh_watcher *w)
{
    if (!w) return;
    qh_timer_free(w->timer);
    qh_watch_free(w->watch);
    forget(w);
    if (w->fd >= 0) close(w->fd);
    qh_free(w);
}

static watched watch_file(qh_watcher *w, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = !slash          ? qh_strdup(".")
                   : slash == path ? qh_strdup("/")
                                   : qh_strndup(path, (size_t)(slash - path));
    watched f = {inotify_add_watch(w->fd, folder, EVENTS | IN_ONLYDIR),
                 qh_strdup(slash ? slash + 1 : path)};
    qh_free(folder);
    return f;
}

void qh_watcher_set(qh_watcher *w, const char *const *paths, int n_paths)
{
    watched *files = qh_alloc0(sizeof *files * (size_t)(n_paths ? n_paths : 1));
    for (int i = 0; i < n_paths; i++) files[i] = watch_file(w, paths[i]);
    for (int i = 0; i < w->n_files; i++) {      /* folders that nobody wants any more */
        bool is_wanted = false;
        for (int k = 0; k < n_paths; k++) is_wanted |= files[k].wd == w->files[i].wd;
        if (is_wanted) w->files[i].wd = -1;
    }
    forget(w);
    w->files = files;
    w->n_files = n_paths;
}
