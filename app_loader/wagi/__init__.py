"""Commands that answer HTTP requests as CGI programs do: a process for each, RFC 3875 and WAGI."""
