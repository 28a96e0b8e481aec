/* mapfile.c - see mapfile.h */
#include "base/mapfile.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static qh_status map_fd(qh_mapfile *m, int fd, const char *path, qh_err *err)
{
    struct stat sb;
    if (fstat(fd, &sb)) return qh_fail(err, QH_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(sb.st_mode)) return qh_fail(err, QH_EFORMAT, "%s: not a regular file", path);
    if (sb.st_size == 0) return QH_OK;
    void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return qh_fail(err, QH_EIO, "%s: mmap: %s", path, strerror(errno));
    m->data = p;
    m->len_bytes = (size_t)sb.st_size;
    return QH_OK;
}

qh_status qh_mapfile_open(qh_mapfile *m, const char *path, qh_err *err)
{
    *m = (qh_mapfile){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        qh_status st = errno == ENOENT ? QH_ENOTFOUND : errno == EACCES ? QH_EACCES : QH_EIO;
        return qh_fail(err, st, "%s: %s", path, strerror(errno));
    }
    qh_status st = map_fd(m, fd, path, err);
    close(fd);
    return st;
}

void qh_mapfile_close(qh_mapfile *m)
{
    if (m->data) munmap((void *)m->data, m->len_bytes);
    *m = (qh_mapfile){0};
}
