/* Opened by bcc's helpers.h; nothing of it is used. */
