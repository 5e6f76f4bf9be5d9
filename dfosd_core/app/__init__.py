"""The panel with pictures and buttons: alone as `dfosd app`, and as a tab of the WebUIs."""
