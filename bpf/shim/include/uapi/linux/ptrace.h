/* Opened by bcc's own headers; nothing of it is used. */
